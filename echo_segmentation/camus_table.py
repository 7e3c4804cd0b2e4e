"""The results as CAMUS reports them (Leclerc et al. 2019): by phase and structure, and the volumes.

Of each structure at end diastole and end systole the Dice, the Hausdorff distance and the mean surface distance; of
volumes and ejection fraction the correlation, bias, deviation and mean absolute error against the reference labels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_description import Description, camus
from output_files import new_file
from patients import QUANTITIES
from rows import Row, structures_in, write_rows
from summary import Penalty, summarise_cases

TITLES = {"edv_ml": "EDV (ml)", "esv_ml": "ESV (ml)", "ef": "EF (%)"}
MEASURES = ("dice", "hd", "msd")
AGREEMENT = ("correlation", "bias", "sd", "mean_absolute")


def phases_of(description: Description) -> list[str]:
    return description.volumes.phases if description.volumes else []


def camus_rows(
    rows: Sequence[Row], statistics: dict[str, Any], penalty: Penalty, description: Description | None = None
) -> list[Row]:
    """One row per number: `phase`, `item`, `measure`, `mean` (the number itself of an agreement), `sd`, `unit`, `n` and
    `missed` (cases where one map alone has the structure). Phases that do not occur are left out.
    """
    result = []
    for phase in phases_of(description or camus()):
        of_phase = [row for row in rows if row["phase"] == phase]
        for structure, found in summarise_cases(of_phase, penalty).items() if of_phase else ():
            for measure in MEASURES:
                unit = "" if measure == "dice" else rows[0]["unit"]
                numbers = {"mean": found[measure]["mean"], "sd": found[measure]["std"], "unit": unit}
                row = {"phase": phase, "item": structure, "measure": measure, **numbers}
                result.append(row | {"n": found[measure]["n"], "missed": found["missed"]})
    for item, found in statistics.get("against_labels", {}).items():
        for measure in AGREEMENT:
            unit = "" if measure == "correlation" else {"ef": "%"}.get(item, "ml")
            row = {"phase": "", "item": item, "measure": measure, "mean": found[measure], "sd": ""}
            result.append(row | {"unit": unit, "n": found["n"], "missed": ""})
    return result


def camus_markdown(
    rows: Sequence[Row], statistics: dict[str, Any], penalty: Penalty, description: Description | None = None
) -> str:
    """The same as two tables in Markdown."""
    described = description or camus()
    numbers = camus_rows(rows, statistics, penalty, described)
    cells = {(row["phase"], row["item"], row["measure"]): row for row in numbers}
    phases = [phase for phase in phases_of(described) if any(phase == key[0] for key in cells)]
    unit, lines = rows[0]["unit"], []
    if phases:
        heads = [f"{phase} {name}" for phase in phases for name in ("Dice", f"HD {unit}", f"MSD {unit}", "missed")]
        lines += [_line(["structure", *heads]), _line(["---"] * (1 + len(heads)))]
        for structure in structures_in(rows):
            line = [described.title(structure)]
            for phase in phases:
                line += [_mean_sd(cells[phase, structure, measure], measure) for measure in MEASURES]
                line.append(f"{cells[phase, structure, 'dice']['missed']} of {cells[phase, structure, 'dice']['n']}")
            lines.append(_line(line))
        note = {"none": "left out of the distances", "diagonal": "given the frame's diagonal as distance"}[penalty]
        lines += ["", f"Mean +/- standard deviation over frames. Missed structures have Dice 0 and are {note}."]
    if "against_labels" in statistics:
        lines += ["", _line(["", "correlation", "bias", "deviation", "mean absolute error", "patients"])]
        lines.append(_line(["---"] * 6))
        for item in QUANTITIES:
            numbers = [cells["", item, measure]["mean"] for measure in AGREEMENT]
            texts = [f"{numbers[0]:.3f}", f"{numbers[1]:+.2f}", *(f"{number:.2f}" for number in numbers[2:])]
            lines.append(_line([TITLES[item], *texts, str(cells["", item, "bias"]["n"])]))
        lines += ["", "Predicted minus reference, both by Simpson's biplane method from label maps."]
    return "\n".join(lines).strip() + "\n"


def write_camus_table(
    folder: Path,
    rows: Sequence[Row],
    statistics: dict[str, Any],
    penalty: Penalty,
    description: Description | None = None,
) -> str:
    """Write camus_table.md and camus_table.csv, where a case's phase or a patient's volumes are known; the former."""
    numbers = camus_rows(rows, statistics, penalty, description)
    if not numbers:
        for name in ("camus_table.csv", "camus_table.md"):
            (folder / name).unlink(missing_ok=True)
        return "no phases in the names or metadata.csv: no CAMUS table"
    text = camus_markdown(rows, statistics, penalty, description)
    write_rows(folder / "camus_table.csv", numbers)
    with new_file(folder / "camus_table.md") as path:
        path.write_text(text, encoding="utf-8")
    return text.rstrip()


def _mean_sd(row: Row, measure: str) -> str:
    digits = 3 if measure == "dice" else 2
    return f"{row['mean']:.{digits}f} +/- {row['sd']:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
