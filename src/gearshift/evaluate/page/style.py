"""The report's look: one sheet, light and dark, from phone to desktop, with only the reader's own fonts."""

SHEET = """
:root { color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1d2430; --soft: #5d6675; --line: #e3e1da;
  --blue: #2b5fd0; --amber: #c97b12;
  --wash: #eef3ff; --warn: #8f4d00; --warnwash: #fff3de; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #12151b; --card: #1a1f28; --ink: #e7eaf0; --soft: #9aa4b5; --line: #2d3440;
  --blue: #82abff; --amber: #f0b04a;
  --wash: #1d2a44; --warn: #ffc978; --warnwash: #38290f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: clamp(1.7rem, 5vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; margin: 0 0 .4em;
  text-wrap: balance; }
h2 { font-size: 1.25rem; letter-spacing: -.01em; margin: 2.4em 0 .7em; }
h3 { font-size: 1rem; margin: 0 0 .6em; }
p { max-width: 68ch; margin: 0 0 .8em; overflow-wrap: anywhere; }
.intro { font-size: 1.1rem; }
.soft, figcaption small, th small { color: var(--soft); }
.soft { font-size: .9rem; }
code { font: .85em/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 18px; margin: 0 0 16px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 14px 22px; }
.tiles b { display: block; font-size: 1.75rem; line-height: 1.2; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tiles b small { font-size: .95rem; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.wide { overflow-x: auto; padding: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 11px 16px; text-align: right; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; font-size: .9rem; white-space: nowrap; }
th small { display: block; font-weight: 400; font-size: .78rem; }
tbody th { text-align: left; font-weight: 600; position: sticky; left: 0; background: var(--card); min-width: 240px;
  max-width: 380px; }
tbody th code { display: block; font-weight: 400; color: var(--soft); }
tr.best th, tr.best td { background: var(--wash); }
.tag { display: inline-block; font-size: .75rem; font-weight: 600; border-radius: 99px; padding: 0 8px;
  white-space: nowrap; border: 1px solid var(--line); color: var(--soft); }
.tag.star { color: var(--blue); border-color: var(--blue); }
.worse { display: block; width: fit-content; font-size: .75rem; line-height: 1.3; border-radius: 6px; padding: 1px 6px;
  color: var(--warn); background: var(--warnwash); text-align: right; }
td .worse { margin: 5px 0 0 auto; white-space: nowrap; }
.bar { display: block; height: 4px; margin: 5px 0 0 auto; min-width: 90px; width: 100%; }
.bar rect { fill: var(--blue); }
.bar line { stroke: var(--line); stroke-width: 4; }
.prompt { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(150px, 44%), 1fr)); gap: 14px; }
figure { margin: 0; min-width: 0; max-width: 320px; }
figure img { display: block; width: 100%; height: auto; border-radius: 9px; border: 1px solid var(--line); }
img.small { image-rendering: pixelated; }
figcaption { font-size: .87rem; line-height: 1.35; padding-top: 6px; overflow-wrap: anywhere; }
figcaption small { display: block; font-variant-numeric: tabular-nums; }
.strip { display: block; width: 100%; height: 58px; overflow: visible; }
.strip text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.strip line { stroke: var(--soft); stroke-width: 1; }
.computed { fill: var(--blue); }
.filled, .edge { stroke: var(--amber); }
.edge { stroke-width: 1.2; }
.hatch { stroke: var(--amber); stroke-width: 2.2; }
.unknown { fill: none; stroke: var(--soft); stroke-dasharray: 2 3; }
.key { display: flex; flex-wrap: wrap; gap: 4px 20px; align-items: center; margin-bottom: 14px; }
.key svg { width: 16px; height: 30px; vertical-align: middle; margin-right: 7px; }
.track { margin-top: 14px; }
.track p { margin: 0 0 2px; }
details { margin-top: 6px; font-size: .9rem; }
summary { cursor: pointer; color: var(--soft); }
details ul, .notes { padding-left: 1.2em; margin: .4em 0 0; }
.notes li { margin-bottom: .4em; max-width: 68ch; overflow-wrap: anywhere; }
@media (max-width: 600px) { main { padding: 24px 14px 48px; } th, td { padding: 9px 11px; }
  tbody th { min-width: 118px; max-width: 150px; } .card { padding: 14px; } .card.wide { padding: 0; } }
@media print { .card { break-inside: avoid; } }
"""
