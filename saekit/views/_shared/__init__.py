"""Adding a view.

A view is a folder of Python, ``saekit/views/NAME``, and a folder of JavaScript, ``widgets/NAME``; what several share
is in ``_shared`` on either side. **What is shown is made once, in Python, as plain data**: words, numbers as texts,
shades, coordinates. Two small renderers draw it, `still.py` for stored notebooks and ``widgets/_shared/draw.js`` in the
browser, so that a still cannot differ from the live view.

1. ``state.py``: functions from results to panels. A panel is a node (`nodes.py`), for example
   ``el("p", {"class": "quiet"}, "at most ", el("b", {}, sig(value)))``. There are `table`, `facts`, `figure`, strips of
   tokens (`strips.py`), charts (`chart.py`), contexts of features (`contexts.py`). Numbers become text by `words.py`,
   colours are names of `palette.py`. A look (``class``) is a rule ``.saekit-LOOK`` in a stylesheet, and an entry of
   `still.LOOKS` where a still needs it too.
2. ``work.py``: a plain object that does the slow work and knows no widget. What it computes it returns, or yields piece
   by piece as ``{trait: value}``.
3. ``__init__.py``: the widget, a `View`: typed traits with checks, and wiring. It **has** the work object; it inherits
   from nothing else. ``_name`` is its folder; `View.state` returns its panels by name, in the order of the still;
   `View._title` names it. Synced traits hold panels, not numbers to be formatted. Slow work goes through
   ``self._background(kind, lambda stopped: self._work.something(..., stopped))``: busy, Stop, errors in words, newest
   request first; traits that a generator yields are set as they come.
4. ``widgets/NAME/index.js``: ``export default { render }``. It lays out places, ``show(place, [panel])`` draws a panel
   in one, ``wire(model, {trait: redraw})`` draws it again when the trait changes. A node with ``set: [trait, value]``
   works by itself once ``pressable(root, set)`` listens; ``startOrStop(go, model)`` makes a button compute and stop.
   Sliders, fields, selection, keys and roles are written here; ``keepKeys(root)`` keeps plain keys from JupyterLab.
   ``style.css`` beside it imports what it needs of ``_shared``.
5. An exported page has no kernel: `View._page` takes ``replies[trait][JSON of the value]``, the traits that change with
   it, and what needs no kernel may be said with them.
6. A line in ``tests/views/every_view.py``: two tests then draw every panel both ways and compare words and numbers.

Read in this order: `words`, `palette`, `nodes`, `strips`, `chart`, `still`, `page`, `worker`, `view`, `index_side`,
`contexts`.
"""
