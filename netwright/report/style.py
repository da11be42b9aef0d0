"""The page's style sheet."""

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1100px; background: #fff;
  color: #1b2430; font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial,
  sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid #d5dbe3; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 75ch; margin: .5rem 0; }
.note { color: #566273; }
.verdict { font-size: 1.05rem; font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: .75rem;
  margin: 1.25rem 0; padding: 0; }
.cards > div { border: 1px solid #d5dbe3; border-radius: 8px; padding: .7rem .9rem;
  break-inside: avoid; }
.cards dt { color: #566273; font-size: .8rem; }
.cards dd { margin: .1rem 0 0; font-size: 1.4rem; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.cards .small { display: block; font-size: .78rem; font-weight: 400; color: #566273; }
.cards .lead { border-color: #9db8d6; background: #f3f7fc; }
figure { margin: 1rem 0; break-inside: avoid; }
figure svg { display: block; max-width: 100%; height: auto; }
figure svg.nw-network { margin: 0 auto; }
figcaption { color: #566273; font-size: .87rem; margin-top: .35rem; max-width: 90ch; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .87rem; min-width: 40%; }
caption { text-align: left; color: #566273; padding-bottom: .35rem; }
th, td { text-align: left; padding: .32rem .9rem .32rem 0; border-bottom: 1px solid #e6eaef;
  vertical-align: top; overflow-wrap: anywhere; }
th { color: #566273; font-weight: 600; white-space: nowrap; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
details { border: 1px solid #d5dbe3; border-radius: 8px; margin: .75rem 0; padding: 0 1rem; }
summary { cursor: pointer; padding: .55rem 0; font-weight: 600; overflow-wrap: anywhere; }
pre { background: #f6f8fa; border-radius: 8px; padding: .8rem 1rem; overflow-x: auto;
  font: 12.5px/1.5 ui-monospace, 'SF Mono', Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.timeline { list-style: none; margin: .75rem 0; padding: 0 0 0 1.1rem;
  border-left: 2px solid #d5dbe3; }
.timeline li { margin: .5rem 0; position: relative; }
.timeline li::before { content: ''; position: absolute; left: calc(-1.1rem - 6px); top: .45em;
  width: 10px; height: 10px; border-radius: 50%; background: #566273; }
.timeline li.open_test::before { background: #b3261e; }
.timeline li.train::before { background: #1f7a4d; }
.timeline time { color: #566273; margin-right: .6rem; font-variant-numeric: tabular-nums; }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  details::details-content { content-visibility: visible; height: auto; }
  h2, h3 { break-after: avoid; }
}
"""
