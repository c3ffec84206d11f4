"""The stylesheet of the page of a run."""

STYLESHEET = """
:root {
  --paper: #fdfdfc; --card: #f5f5f3; --ink: #1c2024; --quiet: #646c75;
  --line: #dfe2e6; --first: #2563c9; --second: #d9622b;
  --towards: 214 57 43; --away: 37 99 201;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --card: #1e2226; --ink: #e8eaec; --quiet: #9aa3ad;
    --line: #353b42; --first: #5b93ee; --second: #ee8a55;
    --towards: 240 92 76; --away: 91 147 238;
  }
}
* { box-sizing: border-box; margin: 0; }
body {
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 66rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; text-wrap: balance; }
h1, h3, dd, p, li, tbody th { overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3.2rem 0 .9rem; }
h3 { font-size: .9rem; font-weight: 400; color: var(--quiet); margin-bottom: .3rem; }
h3 b { color: var(--ink); }
.set, .quiet { color: var(--quiet); }
.numbers {
  display: grid; grid-template-columns: minmax(15rem, 2fr) 5fr; gap: 1rem;
  margin-top: 1.8rem;
}
.numbers dt { color: var(--quiet); font-size: .85rem; }
.numbers dd { font-size: 1.6rem; font-weight: 600; line-height: 1.3; }
.numbers > dl { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1rem; }
.numbers > dl > div, .main { background: var(--card); border-radius: .6rem; }
.numbers > dl > div, .main { padding: 1rem 1.2rem; }
.main dd { font-size: 2.7rem; line-height: 1.15; color: var(--first); }
.main p { font-size: .85rem; color: var(--quiet); }
.plots {
  display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 2.2rem 2rem;
  margin-top: 2.8rem;
}
.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .45rem .8rem; text-align: right; }
tr { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--quiet); font-weight: 400; font-size: .85rem; }
tbody th { font-weight: 500; min-width: 5.5rem; }
td, thead th { white-space: nowrap; }
article { border-top: 1px solid var(--line); padding: 1rem 0 1.1rem; max-width: 46rem; }
article p { font: 1.02rem/1.65 ui-serif, Charter, Georgia, serif; }
.quiet + article { margin-top: 1rem; }
mark {
  color: inherit; border-radius: .2em; padding: .05em .12em; margin: 0 -.06em;
  --push: .6;
}
.towards {
  background: rgb(var(--towards) / calc(.08 + .5 * var(--push)));
}
.away {
  background: rgb(var(--away) / calc(.08 + .5 * var(--push)));
  text-decoration: underline dotted 1px; text-underline-offset: .2em;
}
.bar {
  --share: 0;
  display: block;
  background: linear-gradient(rgb(var(--away) / .45) 0 0) 0 50% / calc(
    (100% - 5rem) * var(--share)
  ) .7rem no-repeat;
}
td:has(.bar) { min-width: 13rem; }
.gallery {
  display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 2rem;
  margin-top: 1rem;
}
.pictures { display: flex; gap: .5rem; }
.pictures img { width: 11.5rem; max-width: calc(50% - .25rem); border-radius: .3rem; }
img { display: block; height: auto; }
.exact { image-rendering: pixelated; }
article .source {
  font: inherit; font-size: .85rem; color: var(--quiet); margin-top: .4rem;
}
.batches img { width: 100%; max-width: 44rem; border-radius: .3rem; }
figcaption { color: var(--quiet); font-size: .85rem; margin-top: .5rem; }
.batches figure + figure { margin-top: 1.6rem; }
.facts { display: grid; grid-template-columns: 1fr 1fr; column-gap: 2.5rem; }
.facts div {
  display: grid; grid-template-columns: 9rem 1fr; gap: 1rem;
  border-top: 1px solid var(--line); padding: .45rem 0; font-size: .92rem;
}
.facts dt { color: var(--quiet); }
.notes { margin-top: 1.4rem; padding-left: 1.1rem; }
@media (max-width: 46rem) {
  main { padding: 1.6rem 1rem 3rem; }
  .numbers, .plots, .facts, .gallery { grid-template-columns: minmax(0, 1fr); }
  .numbers > dl { grid-template-columns: 1fr 1fr; }
  .numbers dd { font-size: 1.3rem; }
  .main dd { font-size: 2.4rem; }
}
"""
