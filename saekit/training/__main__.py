"""`python -m saekit.training` trains a bundled SAE, writes its card and its index; see --help."""

from saekit.training.publishing import main

main()
