"""What a center keeps for itself between rounds, on its own disk, versioned by round."""

from pathlib import Path

from fedkvasir.exchange import State, load_groups, save_groups


class CenterState:
    """Named groups of arrays by round: ``<folder>/0003.safetensors`` is what the center kept after round 3.

    Every train message names the round to start from, so a round that was trained but never committed by the server
    is trained again from the same state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, round_number: int) -> dict[str, State]:
        """The groups kept after that round; none after round 0. Raises FileNotFoundError where the round is gone."""
        return load_groups(self._path(round_number))[0] if round_number else {}

    def save(self, round_number: int, groups: dict[str, State], start_from: int, keep: int) -> None:
        """Write one round's groups; forget all rounds but it, ``start_from``, ``keep``, and the last before
        ``start_from``: real sites train before that round is committed, and who is cut off goes on from the one before.
        """
        save_groups(self._path(round_number), groups)
        kept = {int(path.stem): path for path in self.folder.glob("[0-9]*.safetensors")}
        before = max((other for other in kept if other < start_from), default=0)
        for other in kept.keys() - {round_number, start_from, before, keep}:
            kept[other].unlink()

    def _path(self, round_number: int) -> Path:
        return self.folder / f"{round_number:04d}.safetensors"
