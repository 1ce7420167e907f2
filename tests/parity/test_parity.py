"""Every golden file through `d2net parity`, and that it notices what does not match."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from d2net.data.files import DataError
from d2net.parity import check_file, golden_files, main, run_parity

SNIPPET = {"L_ds", "grad_ds_tcam", "lds_per_video"}
# Stored values that come from a bug or an arbitrary choice of the authors' code; everything else must match.
UNWANTED = {
    "losses_nofg_middle": {"L_dis", "grad_dis_tcam", "grad_dis_emb"},
    "losses_tied_lowest_lambda": {"x_ref_after", "lambda_prime", *SNIPPET},
    "losses_lds_rank1": SNIPPET,
    "losses_lds_rank1_exact": SNIPPET,
}
NAMES = [
    "forward_activitynet",
    "forward_thumos",
    *(
        f"losses_{case}"
        for case in (
            "activitynet_c100 activitynet_gate all_skipped basic2_c20 basic_c20 lds_none lds_rank1 "
            "lds_rank1_exact lds_skip nobg_video nofg_last nofg_middle one_label_rank1 saturated_ties "
            "short_unlabelled tied_lowest_lambda two_labels_rank1 xref_small xref_zero xref_zero_nobg"
        ).split()
    ),
    "localize_activitynet",
    "localize_thumos",
]
LOSSES = (
    "L_dis L_dv L_ds x_ref_after grad_dis_tcam grad_dis_emb grad_dv_tcam grad_dv_emb grad_ds_tcam "
    "grad_ds_emb kept_videos topk_mean w_ff_pairs w_bb_pairs w_fb_pairs lambda_prime lds_per_video"
).split()
LOCALIZE = (
    "class_scores class_selected n_proposals_before_nms stage_before_nms stage_before_nms_score "
    "n_proposals_after_nms stage_after_nms stage_after_nms_score gt det_class det_video det_start det_end "
    "det_score ap map_percent"
).split()
FORWARD = ["x_ref", "logits_stream_first1024", "logits_stream_last1024", "embedding_mean", "tcam", "lambda_prime", "R"]


def expected_quantities(name):
    if name.startswith("forward"):
        return {*FORWARD}
    if name.startswith("localize"):
        return {*LOCALIZE}
    return {f"{q} {p}" for q in LOSSES for p in ("float64", "float32")}


@pytest.fixture
def data(tmp_path):
    """A folder without the data sets, whose annotations have licences of their own: only `gt` needs them."""
    return tmp_path / "none"


def assert_passes(checks, name, unwanted, skipped=()):
    assert {c.quantity for c in checks if c.status not in ("pass", "not wanted")} == {*skipped}
    assert all(c.status == "skipped" for c in checks if c.quantity in skipped)
    assert expected_quantities(name) <= {c.quantity for c in checks}
    found = {c.quantity.partition(" ")[0].removesuffix("_sums") for c in checks if c.status == "not wanted"}
    assert found == unwanted
    assert all(c.case == name and c.error <= c.tolerance for c in checks if c.status == "pass")


@pytest.mark.parametrize("name", NAMES)
def test_golden_file(name, golden_dir, data):
    checks = check_file(golden_dir / f"{name}.npz", data=data)
    assert_passes(checks, name, UNWANTED.get(name, set()), ["gt"] if name.startswith("localize") else [])


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("localize")])
def test_whole_localization_file(name, shared_dir):
    checks = check_file(shared_dir / "golden" / f"{name}.npz", data=shared_dir / "data")
    assert_passes(checks, name, {"bug_class4_emptied_map_percent"} if name == "localize_thumos" else set())


@pytest.mark.parametrize("name", ["thumos", "activitynet"])
def test_thinned_files_are_what_the_script_makes(name, shared_dir, golden_dir):
    script = runpy.run_path(str(Path(__file__).with_name("thin_golden.py")))
    with np.load(shared_dir / "golden" / f"localize_{name}.npz") as file:
        want = script["thinned"](dict(file), script["ROWS"][name])
    with np.load(golden_dir / f"localize_{name}.npz") as file:
        got = dict(file)
    assert got.keys() == want.keys()
    for key in want:
        np.testing.assert_array_equal(got[key], want[key], err_msg=key)


def test_every_golden_file_is_tested(golden_dir):
    assert [path.stem for path in golden_files(golden_dir)] == NAMES


def test_repaired_values_stand_in_for_bugs(golden_dir, data):
    def of(name):
        checks = check_file(golden_dir / f"{name}.npz", data=data)
        return {c.quantity: c for c in checks}

    fixed = of("losses_nofg_middle")
    for quantity in ("L_dis_row_fixed", "grad_dis_tcam_row_fixed", "grad_dis_emb_row_fixed"):
        assert fixed[f"{quantity} float64"].status == fixed[f"{quantity} float32"].status == "pass"
    assert fixed["L_dis float64"].error > 0.1
    assert of("localize_thumos")["class4_emptied_map_percent_intended"].status == "pass"
    sums = of("losses_saturated_ties")
    for quantity in ("grad_dis_tcam", "grad_dv_tcam", "grad_ds_tcam"):
        assert sums[f"{quantity}_sums float64"].status == sums[f"{quantity}_sums float32"].status == "pass"
    assert of("losses_xref_zero_nobg")["L_ds float64"].status == "pass"


def changed(source, target, key, change):
    """A copy of a golden file with one array changed."""
    with np.load(source) as file:
        arrays = dict(file)
    arrays[key] = change(arrays[key].copy())
    np.savez(target / source.name, **arrays)
    return target / source.name


def nudge(amount):
    """Moves the largest entry by a share of itself."""

    def change(array):
        flat = array.reshape(-1)
        i = np.nanargmax(np.abs(flat))
        flat[i] += flat[i] * amount
        return array

    return change


def off_by_one(array):
    array.reshape(-1)[0] += 1
    return array


def shorter(array):
    return array[:-1]


BASIC, ACTIVITYNET = "losses_basic_c20", "localize_activitynet"
PLANTED = [
    *((BASIC, key, nudge(1e-6), f"{key} float64") for key in ("L_dis", "L_dv", "L_ds", "x_ref_after")),
    *((BASIC, f"{key}_f32", nudge(1e-4), f"{key} float32") for key in ("L_dis", "L_dv", "L_ds", "x_ref_after")),
    *(
        (BASIC, key, nudge(1e-6), f"{key} float64")
        for key in LOSSES
        if key.startswith("grad") and key[5:] not in ("dv_emb", "ds_emb")
    ),
    *((BASIC, key, nudge(1e-6), f"{key} float64") for key in ("topk_mean", "w_ff_pairs", "w_bb_pairs", "w_fb_pairs")),
    *((BASIC, key, nudge(1e-6), f"{key} float64") for key in ("lambda_prime", "lds_per_video")),
    (BASIC, "kept_videos", shorter, "kept_videos float64"),
    ("losses_nofg_middle", "L_dis_row_fixed", nudge(1e-6), "L_dis_row_fixed float64"),
    ("losses_saturated_ties", "grad_ds_tcam", nudge(1e-6), "grad_ds_tcam_sums float64"),
    *((ACTIVITYNET, key, off_by_one, key) for key in ("det_class", "det_video", "det_start", "det_end")),
    *((ACTIVITYNET, key, off_by_one, key) for key in ("n_proposals_before_nms", "n_proposals_after_nms")),
    *((ACTIVITYNET, key, off_by_one, key) for key in ("stage_before_nms", "stage_after_nms")),
    *((ACTIVITYNET, f"stage_{key}_nms_score", nudge(1e-4), f"stage_{key}_nms_score") for key in ("before", "after")),
    *((ACTIVITYNET, key, nudge(1e-4), key) for key in ("class_scores", "det_score", "ap", "map_percent")),
    (ACTIVITYNET, "class_selected", np.logical_not, "class_selected"),
    (ACTIVITYNET, "det_score", shorter, "det_score"),
]


@pytest.mark.parametrize(
    ("name", "key", "change", "quantity"), [pytest.param(*p, id=f"{p[0]}-{p[1]}-{p[3]}") for p in PLANTED]
)
def test_a_planted_error_fails(name, key, change, quantity, golden_dir, data, tmp_path):
    path = changed(golden_dir / f"{name}.npz", tmp_path, key, change)
    failed = {c.quantity for c in check_file(path, data=data) if c.status == "fail"}
    assert quantity in failed
    # Nothing else suffers but the other precision and sums of the same gradient.
    assert all(q.startswith(key.removesuffix("_f32")) for q in failed)


def test_a_planted_error_in_the_ground_truth_fails(shared_dir, tmp_path):
    path = changed(shared_dir / "golden" / f"{ACTIVITYNET}.npz", tmp_path, "gt", off_by_one)
    failed = {c.quantity for c in check_file(path, data=shared_dir / "data") if c.status == "fail"}
    assert "gt" in failed and failed <= {"gt", "ap", "map_percent"}


@pytest.mark.parametrize("key", ["tcam", "lambda_prime", "R", "embedding_mean", "check_noise", "x_ref"])
def test_a_planted_error_in_the_forward_pass_fails(key, golden_dir, data, tmp_path):
    path = changed(golden_dir / "forward_thumos.npz", tmp_path, key, nudge(1e-3))
    assert [c.quantity for c in check_file(path, data=data) if c.status == "fail"] == [key]


def test_exit_code_and_table(golden_dir, data, tmp_path, capsys):
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    for folder in ("good", "bad"):
        for name in ("losses_basic_c20", "losses_lds_rank1"):
            shutil.copy(golden_dir / f"{name}.npz", tmp_path / folder)
    changed(golden_dir / "losses_basic_c20.npz", tmp_path / "bad", "L_dv", nudge(1e-6))
    assert main(tmp_path / "good", data=data) == 0
    good = capsys.readouterr().out
    assert "not wanted (bug 3" in good and ", 0 fail," in good
    assert main(tmp_path / "bad", data=data) == 1
    bad = capsys.readouterr().out
    (line,) = [line for line in bad.splitlines() if line.startswith("failed:")]
    assert "losses_basic_c20: L_dv float64" in line and "1.0e-06" in line and "1e-09" in line
    assert ", 1 fail," in bad
    assert len(run_parity(tmp_path / "bad")) == 2 * len(LOSSES) * 2 + 4


def test_without_annotations_what_needs_them_is_skipped(shared_dir, tmp_path, capsys):
    shutil.copy(shared_dir / "golden/localize_thumos.npz", tmp_path)
    assert main(tmp_path) == 0
    out = capsys.readouterr().out
    assert "8 skipped" in out and "skipped (no data at" in out and "class_selected" in out


def test_an_op_that_breaks_fails_its_case_only(golden_dir, data, monkeypatch):
    from d2net.parity import losses

    def broken(*_, **__):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(losses, "compute_losses", broken)
    (check,) = check_file(golden_dir / "losses_basic_c20.npz", data=data)
    assert check.status == "fail" and check.note == "RuntimeError: no kernel"


def test_errors_name_the_file(golden_dir, tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere"):
        golden_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no golden files"):
        golden_files(tmp_path)
    shutil.copy(golden_dir / "losses_basic_c20.npz", tmp_path / "weights.npz")
    with pytest.raises(DataError, match=r"weights\.npz is not a golden file"):
        golden_files(tmp_path)
    (tmp_path / "weights.npz").unlink()

    whole = (golden_dir / "losses_basic_c20.npz").read_bytes()
    (tmp_path / "losses_cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"losses_cut\.npz is truncated or not an \.npz"):
        run_parity(tmp_path)
    np.savez(tmp_path / "losses_cut.npz", tcam=np.zeros(3))
    with pytest.raises(DataError, match=r"losses_cut\.npz holds no array 'flag'"):
        run_parity(tmp_path)
    np.savez(tmp_path / "losses_cut.npz", tcam=np.array([{}]))
    with pytest.raises(DataError, match=r"losses_cut\.npz is truncated or not an \.npz of plain arrays"):
        run_parity(tmp_path)
    changed(golden_dir / "losses_basic_c20.npz", tmp_path, "flag", lambda _: np.array("bug: parity not wanted for tea"))
    (tmp_path / "losses_cut.npz").unlink()
    with pytest.raises(DataError, match="no rule for the flag 'bug: parity not wanted for tea'"):
        run_parity(tmp_path)


def test_a_file_that_the_readme_names_must_be_there(golden_dir, tmp_path):
    shutil.copy(golden_dir / "README.md", tmp_path)
    for path in golden_files(golden_dir):
        if path.stem != "losses_xref_small":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(DataError, match=r"losses_xref_small\.npz is missing"):
        golden_files(tmp_path)
    (tmp_path / "losses_xref_small.npz").symlink_to(golden_dir / "losses_xref_small.npz")
    assert len(golden_files(tmp_path)) == len(NAMES)
    (tmp_path / "localize_thumos.npz").unlink()
    with pytest.raises(DataError, match=r"localize_thumos\.npz is missing"):
        golden_files(tmp_path)
