#!/usr/bin/env bash
# The whole chain, by the README's own commands at a small size: phantoms (or your CAMUS folder) in, a picture of
# synthetic echoes, a Dice table and report.html, a page with both and more, out.
#
#   pipelines/demo.sh                  phantoms, in demo/
#   pipelines/demo.sh /path/to/camus   a CAMUS release (MHD or NIfTI), in demo_camus/
#
# Run again, it continues: finished steps are kept, an interrupted one is taken up or done again. Delete the folder to
# start clean. Settings (environment): DEMO_FOLDER, DEMO_PATIENTS, DEMO_STEPS (of the diffusion training), DEMO_REPEAT
# (synthetic images per frame), DEMO_EPOCHS (of the segmentation), DEMO_SAMPLES (synthetic images at most; 0: all),
# DEMO_RANKS, DEMO_DEVICE (cpu; cuda: on the GPU, by one rank if DEMO_RANKS says nothing else).
set -euo pipefail
LAST=11 ANOTHER=DEMO_FOLDER
source "$(dirname "$0")/steps.sh"
CAMUS=
[ $# -le 1 ] || fail "one word at most, the folder of a CAMUS release: not $*"
if [ $# -gt 0 ]; then
    [ -d "$1" ] || fail "'$1' is not a folder: give that of a CAMUS release"
    CAMUS=$(realpath "$1")
fi
HERE=$PWD
cd "$(dirname "$0")/.."
export NO_ALBUMENTATIONS_UPDATE=1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # do not spin while another process has the core
SIZE=64
PATIENTS=${DEMO_PATIENTS:-40}
choose_device DEMO_DEVICE "${DEMO_DEVICE:=cpu}"
RANKS=${DEMO_RANKS:-$([ "$DEMO_DEVICE" = cuda ] && echo 1 || echo 2)}
BATCH=8
OUT=$(standing_in "$HERE" "${DEMO_FOLDER:-}" "demo${CAMUS:+_camus}")
STEPS=${DEMO_STEPS:-$([ "$CAMUS" ] && echo 250 || echo 40)}
REPEAT=${DEMO_REPEAT:-$([ "$CAMUS" ] && echo 1 || echo 2)}
SAMPLES=${DEMO_SAMPLES:-$([ "$CAMUS" ] && echo 480 || echo 0)}
EPOCHS=${DEMO_EPOCHS:-15}
whole_numbers DEMO_PATIENTS "$PATIENTS" DEMO_STEPS "$STEPS" DEMO_REPEAT "$REPEAT" DEMO_EPOCHS "$EPOCHS" \
    DEMO_RANKS "$RANKS"
[ "$SAMPLES" = 0 ] || whole_numbers DEMO_SAMPLES "$SAMPLES"
need_ranks DEMO_RANKS "$RANKS" $BATCH
own_folder
make_folder
[ -e "$OUT/.done/2" ] && echo "$OUT/ holds an earlier run: continuing it (delete the folder to start clean)"

if [ -z "$CAMUS" ]; then
    CAMUS=$OUT/camus
    step 1 "Draw $PATIENTS phantom patients" \
        python data_preparation/make_phantom_camus.py --save_folder "$CAMUS" --n_patients "$PATIENTS" --overwrite True
fi
step 2 "Extract the frames" \
    python data_preparation/extract_camus_data.py --camus_data_folder "$CAMUS" --save_folder_path "$OUT/views" \
    --save_img_size $SIZE --image_interpolation area --skip_incomplete True --overwrite True
step 3 "Make sector labels, to train the diffusion model with" \
    python data_preparation/augment_camus_labels.py --data_folder "$OUT/views" --save_folder "$OUT/sector" \
    --add_augmentation False --overwrite True
MADE=$(weights_of "$OUT/diffusion" "$STEPS") \
    step 4 "Train the semantic diffusion model on $RANKS ranks, from the shipped weights (trained on other phantoms)" \
    mpiexec -np $RANKS python semantic_diffusion_model/image_train.py --datadir "$OUT/sector/all_views_sector" \
    --savedir "$OUT/diffusion" --resume_checkpoint pipelines/demo_checkpoint/ema.pt --batch_size_train $((BATCH / RANKS)) \
    --lr 3e-4 --lr_anneal_steps $STEPS --ema_rate 0.99 --save_interval 100 --max_grad_norm 1 --num_workers 0 \
    --loss_weighting min_snr --snr_gamma 5 --snr_floor 0.1 "${DEVICE[@]}"
step 5 "Deform the label maps, to sample from" \
    python data_preparation/augment_camus_labels.py --data_folder "$OUT/views" --save_folder "$OUT/augmented" \
    --n_repeat $REPEAT --overwrite True
step 6 "Sample a synthetic frame for each of them" \
    mpiexec -np $RANKS python semantic_diffusion_model/image_sample.py --datadir "$OUT/augmented/all_views_augmented" \
    --resume_checkpoint "$OUT/diffusion" --results_dir "$OUT/results" --num_samples $SAMPLES --num_steps 10 \
    --deterministic_test False "${DEVICE[@]}"
step 7 "Prepare them for the segmentation" \
    python data_preparation/prepare_inference4segmentation.py --testing_data_folder "$OUT/views" \
    --sdm_results_folder "$OUT/results" --save_folder "$OUT/segmentation_data" --overwrite True
train() {
    step "$1" "Train the segmentation on $2 images alone, and test it on real frames never seen" \
        python echo_segmentation/runner.py --data-dir "$3" --output-dir "$OUT/segmentation_$2" --img-size $SIZE \
        --batch-size 16 --epochs "$4" --loss dice_ce --num-workers 0 "${GPU[@]}"
}
train 8 synthetic "$OUT/segmentation_data/all_views" "$EPOCHS"
# The same number of updates for the real frames, of which there may be fewer or more.
real_epochs=$(python pipelines/report.py epochs "$OUT/segmentation_data/all_views" "$OUT/views/all_views" "$EPOCHS")
train 9 real "$OUT/views/all_views" "$real_epochs"
step 10 "Compare the synthetic frames with the real ones" \
    python semantic_diffusion_model/image_evaluate.py --real_dir "$OUT/sector/all_views_sector" \
    --synthetic_dir "$OUT/results" --output_dir "$OUT/evaluation" --bootstrap 200 --ssim_pairs 100 --overwrite True
printf '\n[%s/%s] Report\n' "$LAST" "$LAST"
python pipelines/report.py table "$OUT/segmentation_synthetic" "$OUT/segmentation_real" | tee "$OUT/table.txt"
python pipelines/report.py evaluation "$OUT/evaluation" | tee -a "$OUT/table.txt"
cp "$OUT/results/preview.png" "$OUT/picture.png"
echo
echo "picture (label, synthetic, overlay, real): $OUT/picture.png"
echo "table:                                     $OUT/table.txt"
echo "synthetic frames against real ones:        $OUT/evaluation/evaluation.md"
python pipelines/report.py page "$OUT"
[ "$CAMUS" = "$OUT/camus" ] || echo "picture and report show patients of your release: they are yours alone"
