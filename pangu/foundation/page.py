"""The frame of an HTML page: nothing from other hosts, light and dark, readable on a phone.

A page is one file. Its content policy forbids what it does not need, so that hostile text in a record could do nothing
even if the escaping failed.
"""

import html

from pangu.foundation.translation import language, translated, translated_html

LOCALES = {"en": "en", "zh": "zh-CN"}
# Colours have a contrast of 4.5 : 1 or more on both grounds (WCAG 2.2, 1.4.3).
STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #56606f; --faint: #667080; --line: #dfe4ec; --paper: #ffffff;
  --ground: #f4f6f9; --link: #1f5fc4; --good: #17704a; --bad: #b3261e; --mark: #ffe58a }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf2; --soft: #a9b4c4; --faint: #95a0b0; --line: #2c3441;
  --paper: #1a202a; --ground: #12161d; --link: #7fb0ff; --good: #4cc38a; --bad: #ff8a7d; --mark: #6b5a13 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.6 system-ui, -apple-system, "Segoe UI",
  "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; overflow-wrap: anywhere }
a { color: var(--link) }
main { max-width: 1200px; margin: 0 auto; padding: 16px clamp(10px, 3vw, 24px) }
h1 { font-size: 1.6rem; line-height: 1.3 } h2 { font-size: 1.25rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; overflow-wrap: normal }
td, th { padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line); text-align: right }
td:first-child, th:first-child { text-align: left }
.scroll { overflow-x: auto; max-width: 100% }
img, svg { max-width: 100% }
"""


def policy(has_script: bool = False, has_server: bool = False) -> str:
    """Return the content policy. has_script: scripts within the page run. has_server: it talks to its own server."""
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data: blob:", "font-src data:"]
    rules += ["script-src 'unsafe-inline'"] * has_script + ["connect-src 'self'"] * has_server
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def page(title: str, body: str, *, style: str = "", script: str = "", head: str = "", is_bare: bool = False) -> str:
    """Return a whole page. `title` is escaped here; the rest is HTML, CSS and JavaScript.

    is_bare: only the given style. head: what stands before the body besides, such as the library of the script.
    """
    css = style if is_bare else STYLE + style
    has_script = bool(script or "<script" in head)
    return (
        f'<!DOCTYPE html>\n<html lang="{LOCALES[language()]}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(has_script)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(translated(title))}</title><style>{css}</style>{head}</head>"
        f"<body>{translated_html(body)}{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )
