"""kill -9 of the process that others work for, as the out-of-memory killer does it: they notice."""

import signal

import pytest
from launching import MANY_CORES, NETWORK, words_of

SECONDS = 15  # of which a loader may be busy for some, on a machine that is


def check_orphans(run, least: int, seconds: float = SECONDS) -> None:
    assert len(run.members()) >= least, run.members()
    run.send(signal.SIGKILL)
    run.process.wait()
    run.until_gone(seconds)


def test_loaders_of_a_training_end_with_it(start, datadir, tmp_path, survived):
    survived("kill -9 of the main process", "its workers are gone within seconds")
    flags = words_of(**NETWORK, datadir=datadir, savedir=tmp_path / "out", num_workers=2, preview_steps=0)
    flags += words_of(log_interval=2, lr_anneal_steps=0)
    run = start("semantic_diffusion_model/image_train.py", flags, **MANY_CORES)
    run.until_said("step 2:")
    check_orphans(run, least=5)  # itself, two loaders, fork server, resource tracker


def test_the_pool_of_an_extraction_ends_with_it(start, release, tmp_path, survived):
    survived("kill -9 of the main process", "its workers are gone within seconds")
    out = tmp_path / "out"
    flags = words_of(camus_data_folder=release, save_folder_path=out, num_workers=2) + ["--save_img_size", "4096"]
    run = start("data_preparation/extract_camus_data.py", flags)
    run.until(lambda: any(out.glob(".unfinished-*/*/images/*/*.png")))
    check_orphans(run, least=3)
    # And what it was building goes with the next run.
    assert len(list(out.glob(".unfinished-*"))) == 1
    again = start("data_preparation/extract_camus_data.py", [*flags[:-1], "16", "--view_names", "2CH_ED"])
    assert again.finish() == 0, again.said
    assert sorted(path.name for path in out.iterdir()) == ["2CH_ED", "all_views"]


def test_loaders_of_a_segmentation_end_with_it(start, hearts, tmp_path, survived):
    survived("kill -9 of the main process", "its workers are gone within seconds")
    flags = ["--data-dir", hearts, "--output-dir", tmp_path / "out", "--gpu", "cpu", "--img-size", 64, "--epochs", 1000]
    flags += ["--cache-gb", 0, "--num-workers", 2, "--batch-size", 2]
    run = start("echo_segmentation/runner.py", flags)
    run.until_said("epoch 2:")
    check_orphans(run, least=4)


LAUNCHERS = pytest.mark.parametrize(
    "launcher", [("mpiexec", "-np", "2"), ("torchrun", "--standalone", "--nproc-per-node", "2")], ids=lambda one: one[0]
)


@pytest.mark.launch
@pytest.mark.slow
@LAUNCHERS
def test_ranks_of_a_training_end_with_their_launcher(launcher, start, datadir, tmp_path, survived):
    survived("kill -9 of the launcher", "its ranks end within seconds")
    flags = words_of(**NETWORK, datadir=datadir, savedir=tmp_path / "out", num_workers=2, preview_steps=0)
    flags += words_of(log_interval=2, lr_anneal_steps=0)
    run = start("semantic_diffusion_model/image_train.py", flags, launcher, **MANY_CORES)
    run.until_said("step 2:")
    check_orphans(run, least=7, seconds=60)  # they save first


@pytest.mark.launch
@pytest.mark.slow
@LAUNCHERS
def test_ranks_of_a_sampling_end_with_their_launcher(launcher, start, datadir, weights, tmp_path, survived):
    survived("kill -9 of the launcher", "its ranks end within seconds")
    out = tmp_path / "out"
    flags = words_of(datadir=datadir, resume_checkpoint=weights, results_dir=out, num_samples=10**4, device="cpu")
    run = start("semantic_diffusion_model/image_sample.py", flags, launcher)
    run.until(lambda: any(out.glob("samples/*.png")))
    check_orphans(run, least=3)
