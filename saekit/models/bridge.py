"""sae-lens's model, with hook points that answer to all their names."""

from sae_lens import SAETransformerBridge
from transformer_lens.hook_points import HookPoint


class Bridge(SAETransformerBridge):
    """A ``SAETransformerBridge`` whose ``hook_dict`` has the names that SAEs carry, such as ``hook_resid_post``.

    transformer-lens's own has them, sae-lens's has not, and the methods that look hook points up there
    (``run_with_hooks``, ``hooks``, ``run_with_cache(names_filter=)``) pass over a name that they do not find.
    """

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Hook points by name: one that has several stands there several times."""
        points = super().hook_dict
        for name, point in points.items():
            if point.name not in points:  # sae-lens puts a point that has lost its full name where an SAE has stood
                point.name = name
        for other, names in {**self.hook_aliases, **self._collect_hook_aliases_from_registry()}.items():
            for name in [names] if isinstance(names, str) else names:  # several: whichever the architecture has
                if name in points:
                    points.setdefault(other, points[name])
        return points
