"""The ground floor: what every room stands on. No room of saekit's lies below it.

Files, each with its use in its first lines, in the order of import:

- ``text``: text that must not break what it is put into
- ``checks``: checks of arguments
- ``progress``: bars, and hearing that somebody wants a computation to stop
- ``files``: all or nothing, a full or unwritable disk in clear words
- ``locks``: one writer at a time, and a word to whoever waits
- ``identity``, ``weights``: what decides the numbers of something, in words; weights as one hash
- ``manifest``, ``writer``, ``store``: the one format on disk
- ``seal``: checksums of a folder that others' programs read
- ``table``: one table for Jupyter
- ``cache``: the user's cache folder and its data packages
- ``assets``: the front-end sources
"""
