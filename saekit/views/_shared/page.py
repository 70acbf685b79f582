"""A view as one self-contained page: its own ES module, a small host in place of the kernel, no CDN."""

import html
import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any


def page(
    *,
    title: str,
    css: str,
    esm: str,
    state: Mapping[str, Any],
    replies: Mapping[str, Mapping[str, dict | str]],
    static: str,
) -> str:
    """Return the page as text.

    Args:
        title: Heading and window title.
        css: The view's stylesheet.
        esm: The view's linked module.
        state: All synced traits; bytes anywhere inside become binary again in the browser.
        replies: What the kernel would answer: ``replies[trait][json value]`` holds the traits that change with it.
            A value that is missing there is refused with ``state["error"]`` set to the reply under ``""``.
        static: Shown when scripts are switched off.
    """
    return _PAGE.format(
        title=html.escape(title),
        css=css.replace("</", "<\\/"),
        esm=b64encode(esm.encode()).decode(),
        state=_script_json(state),
        replies=_script_json(replies),
        static=static,
    )


def _script_json(value: Any) -> str:
    """Return JSON that may stand inside a script element whatever strings it holds."""
    text = json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return {"b64": b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; background: Canvas; color: CanvasText; font: 14px/1.5 system-ui, sans-serif; }}
body {{ margin: 0 auto; padding: 16px 24px 48px; max-width: 1440px; }}
body > main > h1 {{ font-size: 14px; font-weight: 600; margin: 0 0 12px; }}
{css}</style></head>
<body><main><h1>{title}</h1><div id="view"></div><noscript>{static}</noscript></main>
<script type="module">
const binary = (v) => {{
  if (v === null || typeof v !== "object") return v;
  if (typeof v.b64 === "string") return new DataView(Uint8Array.from(atob(v.b64), (c) => c.charCodeAt(0)).buffer);
  if (Array.isArray(v)) return v.map(binary);
  return Object.fromEntries(Object.entries(v).map(([k, w]) => [k, binary(w)]));
}};
const state = binary({state}), replies = {replies}, heard = {{}};
const model = {{
  get: (k) => state[k],
  set(k, v) {{
    const known = replies[k], reply = known?.[JSON.stringify(v)];
    const changes = !known ? {{ [k]: v }} : reply ? {{ error: "", ...binary(reply), [k]: v }} : {{ error: known[""] }};
    Object.assign(state, changes);
    for (const name of Object.keys(changes)) (heard[`change:${{name}}`] ?? []).forEach((f) => f());
  }},
  on(e, f) {{ (heard[e] ??= []).push(f); }},
  off(e, f) {{ heard[e] = (heard[e] ?? []).filter((g) => g !== f); }},
  save_changes() {{}},
  send() {{}},
}};
const view = await import("data:text/javascript;base64,{esm}");
view.default.render({{ model, el: document.querySelector("#view") }});
window.saekit = {{ state, model, ready: true }};
</script></body></html>
"""
