"""Every error that saekit raises on purpose. Each message says what was got, what was expected and what to do."""


class SaekitError(Exception):
    """Base class: `except SaekitError` catches everything that saekit raises on purpose."""


class ModelError(SaekitError, ValueError):
    """A model, hook point or prompt that cannot be used."""


class SAEError(SaekitError, ValueError):
    """An SAE that cannot be found, read, or paired with the model at hand."""


class DataError(SaekitError, ValueError):
    """A corpus or data set that cannot be found or read."""


class FeatureIndexError(SaekitError, ValueError):
    """A feature index that cannot be built, read or asked this question."""


class ProbeError(SaekitError, ValueError):
    """A probe that cannot be fitted, compared or read as asked."""


class ToyModelError(SaekitError, ValueError):
    """Sizes, densities or importances that no toy model can have."""


class TaskError(SaekitError, ValueError):
    """A task whose prompts, answers or names cannot be used."""


class SteeringError(SaekitError, ValueError):
    """An intervention, a prompt or a position that steering cannot use."""


class VisionError(SaekitError, ValueError):
    """Images, patches or activations of them that cannot be used."""


class OfflineError(SaekitError, OSError):
    """Something has to be downloaded first, and the network cannot be reached."""


class ChecksumError(SaekitError, OSError):
    """A downloaded file is not the file that saekit was tested with."""


class Stopped(SaekitError):
    """A computation that ended because its ``stop`` said so; there is no result."""
