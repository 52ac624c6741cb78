"""`jaxgen evaluate`: a saved run's figures again, and the scores of what it writes for pairs of texts."""

from collections.abc import Sequence
from pathlib import Path

from jaxgen.averaging import title
from jaxgen.saved_run import SavedRun
from jaxgen.text_scores import signatures
from jaxgen.text_to_text import score_split
from jaxgen.train.hooks import format_figures, say


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
    if data is None:
        sources = run.sources(splits)
    else:
        sources = {name or "text": run.other_text(data, name, truncate) for name in splits or (None,)}
    search = {"num_beams": num_beams, "length_penalty": length_penalty}
    figures, written = run.evaluate(sources), []
    for name, source in sources.items():
        stem = name if data is None else f"{Path(source.name).stem}-{source.split}"
        stem += f"-beam-{num_beams}" if num_beams > 1 else ""
        if scores := score_split(run.directory, run.task, run.state, source, stem, **search):
            figures |= {f"{name}/{score}": value for score, value in scores.items()}
            written.append(run.directory.samples / f"{stem}.csv")
    say(f"{run.config.get('experiment') or run.directory.path}, {title(run.config, int(run.state.step))}")
    say("  ".join(format_figures(figures)))
    if written:
        say("\n".join(f"{name}: {told}" for name, told in signatures(run.task.scored_by).items()))
    for path in written:
        say(str(path))
