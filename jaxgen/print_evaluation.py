"""`jaxgen evaluate`: a saved run's figures again, and the scores of what it writes for pairs of texts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.data.sources import Source
from jaxgen.parallel import split_host
from jaxgen.saved_run import SavedRun
from jaxgen.text_scores import signatures
from jaxgen.text_to_text import BATCH_SIZE, check_options, of_pairs, score_split
from jaxgen.train.hooks import format_figures, say
from jaxgen.writing import reads


def print_evaluation(
    run: SavedRun,
    splits: Sequence[str] = (),
    data: str | None = None,
    truncate: bool = False,
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> None:
    """Prints the figures of a run's splits, or of another text or table of texts.

    What it writes for pairs of texts is kept in `samples/` of the run directory.

    Args:
        run: the run.
        splits: by default all but that to train on; of another text all of it.
        data: the other text, as for `SavedRun.other_text`.
        truncate: as for `SavedRun.other_text`.
        num_beams: as for `jaxgen.text_to_text.write_split`; of several what is written is kept as `SPLIT-beam-N.csv`.
        length_penalty: the same.

    Raises:
        JaxgenError: as `SavedRun.sources` and `SavedRun.other_text` do, and where a file can't be written.
    """
    check_options(num_beams)
    if reads(run.task):
        split_host(BATCH_SIZE)
    if data is None:
        sources = run.sources(splits)
    else:
        sources = {name or "text": run.other_text(data, name, truncate) for name in splits or (None,)}
    beams = f"-beam-{num_beams}" if num_beams > 1 else ""
    stems = {
        name: (name if data is None else f"{Path(source.name).stem}-{source.split}") + beams
        for name, source in sources.items()
    }
    figures = scored(run, sources, stems, num_beams=num_beams, length_penalty=length_penalty)
    say(f"{run.config.get('experiment') or run.directory.path}, {_title(run.config, int(run.state.step))}")
    say("  ".join(format_figures(figures)))
    written = [stem for name, stem in stems.items() if of_pairs(sources[name])]
    for name, told in signatures(run.task.scored_by).items() if written else ():
        say(f"{name}: {told}")
    for stem in written:
        say(str(run.directory.samples / f"{stem}.csv"))


def scored(
    run: SavedRun, sources: Mapping[str, Source], stems: Mapping[str, str], **search: Any
) -> dict[str, float]:
    """Gives a run's figures of splits, as `SPLIT/NAME`, the scores of what it writes for pairs of texts among them.

    Args:
        run: the run.
        sources: the splits by name.
        stems: of each, the name of the file in `samples/` that what is written is kept in.
        search: as for `jaxgen.text_to_text.score_split`.
    """
    figures = run.evaluate(sources)
    for name, source in sources.items():
        scores = score_split(run.directory, run.task, run.state, source, stems[name], **search)
        figures |= {f"{name}/{score}": value for score, value in scores.items()}
    return figures


def listed(steps: Iterable[int]) -> str:
    """Writes steps with commas between them."""
    return ", ".join(map(str, steps))


def _title(config: Mapping[str, Any], step: int) -> str:
    """Says which state of a run is evaluated: of which step, or the mean of which."""
    averaged = config.get("averaged")
    return f"mean of steps {listed(averaged['steps'])}" if averaged else f"step {step}"
