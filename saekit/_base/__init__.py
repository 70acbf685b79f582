"""The ground floor: what every room stands on. No room of saekit's lies below it.

Files, each with its use in its first lines, in the order of import:

- ``text``: text that must not break what it is put into
- ``checks``: checks of arguments
- ``progress``: bars, and hearing that somebody wants a computation to stop
- ``files``: all or nothing, one writer at a time, a full disk in clear words
- ``identity``: what decides the numbers of something, in words
- ``manifest``, ``writer``, ``store``: the one format on disk
- ``table``: one table for Jupyter
- ``cache``: the user's cache folder and its data packages
- ``assets``: the front-end sources
"""
