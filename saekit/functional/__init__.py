"""What features are good for: tests of an SAE by what a change to its features does."""

from saekit.functional.removal import Removal, spurious_correlation_removal, targeted_probe_perturbation

__all__ = ["Removal", "spurious_correlation_removal", "targeted_probe_perturbation"]
