#!/usr/bin/env bash
# The paper's claim, from a CAMUS folder to its table: a segmentation trained on synthetic frames alone, on real ones,
# and on both, each judged on the real test patients. By the README's own commands, at one of three sizes:
#
#   pipelines/replicate.sh /path/to/camus cpu64     64 pixels, one small network for all views: two cores, 12 hours or so
#   pipelines/replicate.sh /path/to/camus cpu128    128 pixels, a wider one: two cores, some days
#   pipelines/replicate.sh /path/to/camus gpu256    the paper's recipe: 256 pixels, a network per view, 8 GPUs
#   pipelines/replicate.sh --dry-run gpu256         every command read and checked, then the chain at 32 pixels, one step
#                                                   each, on phantoms (or on the CAMUS folder, if one is named)
#
# Run again, it continues: finished steps are kept, an interrupted one is taken up or done again. Delete the folder to
# start clean. Settings (environment), each with the scale's own default: REPLICATE_FOLDER, REPLICATE_STEPS (of the
# diffusion training), REPLICATE_SAMPLING_STEPS, REPLICATE_REPEAT (synthetic frames per frame), REPLICATE_UPDATES (of
# each segmentation; above ten, the multiple of ten below), REPLICATE_SEEDS ("0 1 2"), REPLICATE_RANKS, REPLICATE_KINDS (of
# segmentations, beside real, synthetic and both: then_real, real_again, oversampled; none by default), REPLICATE_DEVICE
# (of cpu64 and cpu128: cpu; cuda: on the GPU, by one rank if REPLICATE_RANKS says nothing else).
set -euo pipefail
LAST='?' ANOTHER=REPLICATE_FOLDER
source "$(dirname "$0")/steps.sh"
CAMUS= SCALE= DRY=
for word in "$@"; do
    case $word in
        cpu64 | cpu128 | gpu256)
            [ -z "$SCALE" ] || fail "two scales, $SCALE and $word: give one"
            SCALE=$word ;;
        --dry-run) DRY=1 ;;
        *) [ -d "$word" ] || fail "'$word' is neither a folder (of a CAMUS release) nor a scale (cpu64, cpu128, gpu256)"
            [ -z "$CAMUS" ] || fail "two folders, $CAMUS and $word: give one"
            CAMUS=$(realpath "$word") ;;
    esac
done
SCALE=${SCALE:-cpu64}
[ "$CAMUS$DRY" ] || fail "name the folder of a CAMUS release: pipelines/replicate.sh /path/to/camus $SCALE"
HERE=$PWD
cd "$(dirname "$0")/.."
export NO_ALBUMENTATIONS_UPDATE=1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # do not spin while another process has the core

# The scales. *_COST are thousandths of a second on the machine of the benchmarks (two cores), a guess where none was
# measured: what is told of the time left follows the pace that is found.
VIEWS=(all_views) RESIZE=area EVALUATION=()
choose_device REPLICATE_DEVICE "${REPLICATE_DEVICE:=cpu}"
PREDICT_GPU=("${GPU[@]}")
ALONE=
if [ "$REPLICATE_DEVICE" = cuda ]; then ALONE=1; else GPU+=(--num-workers 0); fi
SMALL=(--num_res_blocks 1 --attention_resolutions 16 --num_head_channels 32 --prediction_type v_prediction
    --loss_weighting min_snr --snr_gamma 5 --snr_floor 0.1 --lr 1e-3 --max_grad_norm 1 --ema_rate 0.999
    --log_interval 50 --num_workers 0)
case $SCALE in
    cpu64)
        SIZE=64 STEPS=20000 BATCH=8 RANKS=2 UPDATES=3000 STEP_COST=1500 FRAME_COST=290 UPDATE_COST=400
        NETWORK=(--num_channels 32 --channel_mult 1,1,2 "${SMALL[@]}") ;;
    cpu128)
        SIZE=128 STEPS=30000 BATCH=8 RANKS=2 UPDATES=4000 STEP_COST=4500 FRAME_COST=1200 UPDATE_COST=900
        NETWORK=(--num_channels 64 --channel_mult 0.5,1,1,2 "${SMALL[@]}") ;;
    gpu256)
        SIZE=256 STEPS=50000 BATCH=96 RANKS=8 UPDATES=20000 STEP_COST=165 FRAME_COST=50 UPDATE_COST=100
        VIEWS=(2CH_ED 2CH_ES 4CH_ED 4CH_ES) RESIZE=nearest GPU=() PREDICT_GPU=() DEVICE=() ALONE=
        NETWORK=(--is_train True --save_interval 5000 --random_flip True --deterministic_train False
            --keep_checkpoints 2) ;; # of 10 GB each
esac
STEPS=${REPLICATE_STEPS:-$STEPS}
SAMPLING_STEPS=${REPLICATE_SAMPLING_STEPS:-10}
REPEAT=${REPLICATE_REPEAT:-5}
UPDATES=${REPLICATE_UPDATES:-$UPDATES}
SEEDS=${REPLICATE_SEEDS:-0 1 2}
MORE=${REPLICATE_KINDS:-}
RANKS=${REPLICATE_RANKS:-${ALONE:-$RANKS}}
FRAMES=$(cat "$CAMUS"/database_split/subgroup_{training,validation}.txt 2>/dev/null | wc -w || true)
FRAMES=$((FRAMES ? 4 * FRAMES : 1800)) # of the release, if it lists them
SEGMENTATION_BATCH=16 LOOKS=10 # networks of each segmentation that are validated, the best of which is tested
OUT=$(standing_in "$HERE" "${REPLICATE_FOLDER:-}" "replicate_$SCALE")
whole_numbers REPLICATE_STEPS "$STEPS" REPLICATE_SAMPLING_STEPS "$SAMPLING_STEPS" REPLICATE_REPEAT "$REPEAT" \
    REPLICATE_UPDATES "$UPDATES" REPLICATE_RANKS "$RANKS"
# About eight checkpoints on the way, for benchmarks/replication.py to compare.
[ $SCALE = gpu256 ] || NETWORK+=(--save_interval $(((STEPS + 7) / 8)))
seed='(0|[1-9][0-9]{0,8})'
[[ $SEEDS =~ ^\ *$seed(\ +$seed)*\ *$ ]] ||
    fail "REPLICATE_SEEDS: '$SEEDS' are no whole numbers with blanks between them"
[ -z "$(printf '%s\n' $SEEDS | sort | uniq -d)" ] || fail "REPLICATE_SEEDS: '$SEEDS' has a seed twice"
[[ $MORE =~ ^\ *((then_real|real_again|oversampled)(\ +|$))*$ ]] ||
    fail "REPLICATE_KINDS: '$MORE' are not some of then_real, real_again, oversampled with blanks between them"
[ -z "$(printf '%s\n' $MORE | sort | uniq -d)" ] || fail "REPLICATE_KINDS: '$MORE' has a kind twice"
need_ranks REPLICATE_RANKS "$RANKS" "$BATCH"
[ "$DRY" ] || own_folder

next() { # NAME TITLE COMMAND...
    number=$((number + 1))
    NAME=$1 step "$number" "${@:2}"
}

segmentation() { # KIND SEED DATA [FLAG...]
    local count=$((UPDATES < LOOKS ? UPDATES : LOOKS)) frames="$1 frames"
    case $1 in
        oversampled) frames="both, real frames five times as often" ;;
        then_real) frames="real frames, after synthetic ones" ;;
        real_again) frames="real frames once more" ;;
    esac
    [[ " real synthetic both $MORE " = *" $1 "* ]] || return 0
    COST=$((UPDATES * UPDATE_COST / 1000 + 60)) \
        next "segmentation_$1_$2" "Train the segmentation on $frames (seed $2), and test it on real ones" \
        python echo_segmentation/runner.py --data-dir "$3" "${@:4}" --output-dir "$OUT/segmentation_$1_$2" \
        --img-size "$SIZE" --batch-size "$SEGMENTATION_BATCH" --epochs "$count" --epoch-updates $((UPDATES / count)) \
        --loss dice_ce --min-lr 1e-5 --seed "$2" --native-dir "$CAMUS" "${GPU[@]}"
}

# Whether frames show their labels: what a network of real frames sees in them, and in real ones that it never saw.
predict() { # VIEW SEED WHAT INPUT
    local out="$OUT/predicted/$1_$3"
    # An interrupted one is done again, into an empty folder.
    [ "$MODE" = plan ] || [ -e "$OUT/.done/predict_$1_$3" ] || rm -rf "$out"
    COST=120 next "predict_$1_$3" "Segment $3 frames of $1 by the network of real ones" \
        python echo_segmentation/predict.py --model-path "$OUT/segmentation_real_$2/model.pth" --input "$4" \
        --output-dir "$out" "${PREDICT_GPU[@]}"
}

# The seed of the network of real frames that sees whether frames show their labels: the first that did, or the lowest.
judge() {
    local before
    before=$(sed -nE 's/.*segmentation_real_([0-9]+)\/model\.pth.*/\1/p' "$OUT/.done/predict_${VIEWS[0]}_synthetic" \
        2>/dev/null | head -n 1 || true)
    printf '%s\n' ${before:-$SEEDS} | sort -n | head -n 1
}

chain() {
    number=0
    local seed view first all="$OUT/segmentation_data/all_views"
    first=$(judge)
    COST=15 next extract "Extract the frames" \
        python data_preparation/extract_camus_data.py --camus_data_folder "$CAMUS" --save_folder_path "$OUT/views" \
        --save_img_size "$SIZE" --image_interpolation $RESIZE --skip_incomplete True --overwrite True
    COST=5 next sector "Make sector labels, to train the diffusion model with" \
        python data_preparation/augment_camus_labels.py --data_folder "$OUT/views" --save_folder "$OUT/sector" \
        --add_augmentation False --overwrite True
    COST=15 next deform "Deform the label maps, to sample from" \
        python data_preparation/augment_camus_labels.py --data_folder "$OUT/views" --save_folder "$OUT/augmented" \
        --n_repeat "$REPEAT" --overwrite True
    for view in "${VIEWS[@]}"; do
        MADE=$(weights_of "$OUT/diffusion/$view" "$STEPS") COST=$((STEPS * STEP_COST / 1000)) \
            next "diffusion_$view" "Train the semantic diffusion model of $view" \
            mpiexec -np "$RANKS" python semantic_diffusion_model/image_train.py --datadir "$OUT/sector/${view}_sector" \
            --savedir "$OUT/diffusion/$view" --img_size "$SIZE" --batch_size_train $((BATCH / RANKS)) \
            --lr_anneal_steps "$STEPS" "${NETWORK[@]}" "${DEVICE[@]}"
    done
    for view in "${VIEWS[@]}"; do
        COST=$((REPEAT * FRAMES / ${#VIEWS[@]} * SAMPLING_STEPS / 10 * FRAME_COST / 1000)) \
            next "sample_$view" "Sample a synthetic frame for each deformed label map of $view" \
            mpiexec -np "$RANKS" python semantic_diffusion_model/image_sample.py --num_steps "$SAMPLING_STEPS" --all True \
            --datadir "$OUT/augmented/${view}_augmented" --resume_checkpoint "$OUT/diffusion/$view" \
            --results_dir "$OUT/results/$view" "${DEVICE[@]}"
    done
    COST=20 next prepare "Prepare them for the segmentation" \
        python data_preparation/prepare_inference4segmentation.py --testing_data_folder "$OUT/views" \
        --sdm_results_folder "$OUT/results" --save_folder "$OUT/segmentation_data" --overwrite True
    for seed in $SEEDS; do
        segmentation real "$seed" "$OUT/views/all_views"
        segmentation synthetic "$seed" "$all"
        segmentation both "$seed" "$OUT/views/all_views" --extra-data-dir "$all"
        segmentation oversampled "$seed" "$OUT/views/all_views" --extra-data-dir "$all" --oversample 5
        segmentation then_real "$seed" "$OUT/views/all_views" --lr 3e-4 \
            --model-path "$OUT/segmentation_synthetic_$seed/model.pth"
        segmentation real_again "$seed" "$OUT/views/all_views" --lr 3e-4 \
            --model-path "$OUT/segmentation_real_$seed/model.pth"
    done
    for view in "${VIEWS[@]}"; do
        predict "$view" "$first" synthetic "$OUT/results/$view/samples"
        predict "$view" "$first" real "$OUT/views/$view/images/testing"
        COST=300 next "evaluation_$view" "Compare the synthetic frames of $view with the real ones, and with their labels" \
            python semantic_diffusion_model/image_evaluate.py --real_dir "$OUT/sector/${view}_sector" \
            --synthetic_dir "$OUT/results/$view" --output_dir "$OUT/evaluation/$view" --overwrite True \
            --predictions "$OUT/predicted/${view}_synthetic" --real_predictions "$OUT/predicted/${view}_real" \
            "${EVALUATION[@]}"
    done
}

plan_all() { # what is to be done, and each command in $OUT/commands.txt
    make_folder
    rm -f "$OUT/commands.txt"
    MODE=plan chain
    LAST=$number
}

if [ "$DRY" ]; then
    OUT=$(mktemp -d)
    trap 'rm -rf "$OUT"' EXIT
    CAMUS=${CAMUS:-$OUT/camus}
    plan_all
    python pipelines/check_commands.py "$OUT/commands.txt"
    # The same chain, once more and in fact, as small as it can be.
    SIZE=32 STEPS=1 BATCH=1 RANKS=1 UPDATES=1 REPEAT=1 SEEDS=0 SAMPLING_STEPS=2 expected_left=0
    EVALUATION=(--bootstrap 100 --ssim_pairs 20)
    GPU=(--gpu cpu --num-workers 0 --decoder-channels 16 8 8 --test-viz-num 0) DEVICE=(--device cpu)
    PREDICT_GPU=(--gpu cpu)
    NETWORK+=(--num_channels 32 --channel_mult 1,1 --num_res_blocks 1 --attention_resolutions 16
        --num_head_channels 32 --preview_steps 0 --num_workers 0)
    if [ ! -e "$CAMUS" ]; then
        python data_preparation/make_phantom_camus.py --save_folder "$CAMUS" --n_patients 4 --size 128 --num_workers 0
    fi
else
    [ ! -e "$OUT/.done/extract" ] && [ ! -e "$OUT/.done/1" ] || echo "$OUT/ holds an earlier run: continuing it (delete the folder to start clean)"
fi
plan_all
[ -z "$DRY" ] || expected_left=0 # nothing worth telling
chain
printf '\nThe table\n'
told=$(python pipelines/replication_table.py "$OUT" "$SCALE" $SEEDS)
printf '%s\n' "$told" | tee "$OUT/table.txt"
for view in "${VIEWS[@]}"; do
    told=$(python pipelines/report.py evaluation "$OUT/evaluation/$view")
    printf '%s: %s\n' "$view" "$told" | tee -a "$OUT/table.txt"
done
python pipelines/nearest_frames.py "$OUT"
cp "$OUT/results/${VIEWS[0]}/preview.png" "$OUT/picture.png"
python pipelines/report.py page "$OUT"
echo
if [ "$DRY" ]; then
    echo "dry run of $SCALE: all is well"
else
    echo "table:                                          $OUT/table.txt"
    echo "label, synthetic and nearest real frames:       $OUT/nearest.png (yours alone: it shows patients)"
    echo "all of it on one page:                          $OUT/report.html (the same; so does picture.png)"
fi
