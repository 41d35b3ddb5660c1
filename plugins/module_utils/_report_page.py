# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame of report.html: its head, its looks, its script. Pure.

The page runs this script and no other, and loads nothing: its policy names the hashes of the two constants below. Hence no
style attributes either.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

_DARK = """
--bg:#14171c;--panel:#1c2027;--fg:#e4e7ec;--dim:#9aa4b2;--line:#343b46;--link:#8ab4f8;--mark:#5c4a00;--splat:#33280f;
--good:#6fd08c;--bad:#ff8f8a;--warn:#f3bd5b;--odd:#c9a2ff;--goodbg:#16301f;--badbg:#421c1f;--warnbg:#3a2c10;--oddbg:#2d2142;--idlebg:#262b33
"""

STYLE = (
    """
:root{color-scheme:light;--bg:#fff;--panel:#f6f7f9;--fg:#1b1f26;--dim:#596373;--line:#d5dae2;--link:#0b57d0;--mark:#ffe08a;--splat:#fff6d9;
--good:#1a6b35;--bad:#b3201c;--warn:#875300;--odd:#6a3fb5;--goodbg:#dff3e4;--badbg:#fde2e0;--warnbg:#fdeecb;--oddbg:#ece2fb;--idlebg:#eceff3}
@media (prefers-color-scheme:dark){:root:not([data-theme=light]){color-scheme:dark;"""
    + _DARK
    + """}}
:root[data-theme=dark]{color-scheme:dark;"""
    + _DARK
    + """}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:1rem 1.25rem 4rem;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.35rem;margin:.2rem 0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
h3{font-size:1rem;margin:0 0 .4rem;overflow-wrap:anywhere}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:3px}
header{border:1px solid var(--line);border-left-width:.6rem;border-radius:6px;padding:.7rem 1rem;background:var(--panel)}
header p{margin:.2rem 0}
header.passed{border-left-color:var(--good)} header.failed{border-left-color:var(--bad)} header.error{border-left-color:var(--odd)}
nav{display:flex;gap:.3rem 1rem;flex-wrap:wrap;align-items:center;margin:.8rem 0 0}
nav button{margin-left:auto}
button,input,select{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);border-radius:5px;padding:.25rem .6rem}
input{flex:1 1 16rem}
.badge{display:inline-block;padding:0 .5rem;border-radius:4px;font-weight:600;white-space:nowrap}
.dim,.dim a{color:var(--dim)} .num{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.passed,.pass,.ok{--c:var(--good);--b:var(--goodbg)} .failed,.fail,.panic{--c:var(--bad);--b:var(--badbg)}
.timeout,.known,.flaky,.xpass,.unfinished,.trouble{--c:var(--warn);--b:var(--warnbg)} .error,.daemon_hang{--c:var(--odd);--b:var(--oddbg)}
.skipped,.skip,.not_run,.absent{--c:var(--dim);--b:var(--idlebg)}
.badge,td.cell{color:var(--c);background:var(--b)}
td.cell a{color:inherit;display:block;text-decoration:none} td.cell a:hover{text-decoration:underline}
ul{margin:.3rem 0;padding-left:1.3rem} li{overflow-wrap:anywhere}
table{border-collapse:collapse} th,td{padding:.25rem .6rem;text-align:left;vertical-align:top;border:1px solid var(--line)}
th{background:var(--panel);font-weight:600}
.scroll{overflow:auto;max-height:75vh} .scroll thead th{position:sticky;top:0;z-index:1}
.matrix td{white-space:nowrap} .matrix small{display:block}
.wide{width:100%} .wide td{overflow-wrap:anywhere} .wide .fix{white-space:nowrap;overflow-wrap:normal}
.card{border:1px solid var(--line);border-left:.35rem solid var(--c,var(--line));border-radius:6px;padding:.6rem .9rem;margin:.7rem 0}
.card p{margin:.3rem 0} td details{margin:0} td summary{padding:0}
details{margin:.2rem 0} summary{cursor:pointer;overflow-wrap:anywhere;padding:.1rem .2rem}
summary:hover{background:var(--panel)}
pre{margin:.3rem 0 .6rem;padding:.5rem .7rem;background:var(--panel);border:1px solid var(--line);border-radius:5px;
overflow:auto;max-height:32rem;font:13px/1.45 ui-monospace,monospace;tab-size:8}
pre i{display:inline-block;min-width:4.2rem;padding-right:.8rem;text-align:right;color:var(--dim);font-style:normal;user-select:none}
pre b{font-weight:400;background:var(--splat)} mark{background:var(--mark);color:inherit;font-weight:600}
mark:target{outline:3px solid var(--link)}
.bars td:nth-child(2){width:62%;padding:.45rem .6rem}
.bars svg{display:block;width:100%;height:.9rem;background:var(--panel)}
.bars td:first-child{white-space:nowrap}
.prepare{fill:#4f83cc} .run{fill:#2f9e6e} .collect{fill:#b0882a} .cleanup{fill:#8a6fc0} rect.failed{fill:var(--bad)}
.controls{display:flex;gap:.6rem;flex-wrap:wrap;align-items:center;margin:.5rem 0} [hidden]{display:none!important}
@media (max-width:760px){section{overflow-x:auto}}
@media print{nav,.controls{display:none}pre,.scroll{max-height:none}}
"""
)

SCRIPT = r"""
'use strict';
(() => {
  const PAGE = 200;
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;
  const data = JSON.parse(find('data').textContent);
  const {suites, statuses, issues, rows} = data;
  const search = find('search'), suite = find('suite'), status = find('status'), order = find('order'), body = find('rows');
  const remembered = (value) => {
    try {
      if (value) localStorage.setItem('mayfly-theme', value);
      return localStorage.getItem('mayfly-theme');
    } catch (error) { return null; }
  };
  const make = (tag, text, cls) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (cls) element.className = cls;
    return element;
  };

  if (remembered()) root.dataset.theme = remembered();
  find('theme').addEventListener('click', () => {
    const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
    root.dataset.theme = (root.dataset.theme || system) === 'dark' ? 'light' : 'dark';
    remembered(root.dataset.theme);
  });

  // A row: suite, number, name, status, duration, red, message, directive, known issue. Its text is made when it is first searched.
  const texts = [];
  const textOf = (index) => {
    const [label, number, name, state, , , message, directive, issue] = rows[index];
    const words = [suites[label], number, name, statuses[state][0], directive, issues[issue]?.[0], message];
    return texts[index] ??= words.join(' ').toLowerCase();
  };
  let found = [], shown = 0;
  suites.forEach((label, index) => { const option = make('option', label); option.value = index; suite.append(option); });

  const render = (row) => {
    const [label, number, name, state, duration, , message, directive, issue] = row;
    const [word, symbol] = statuses[state];
    const line = make('tr'), cell = make('td', undefined, 'fix'), title = make('td');
    cell.append(make('span', symbol + ' ' + word.replace('_', ' '), 'badge ' + word));
    const text = (name || '(no name)') + (directive ? '  # ' + directive : '');
    if (message) {
      const fold = make('details'), log = make('pre', message);
      log.tabIndex = 0;
      fold.append(make('summary', text), log);
      title.append(fold);
    } else title.textContent = text;
    if (issues[issue]) {
      const link = make('a', issues[issue][0]);
      link.href = issues[issue][1];
      link.rel = 'noreferrer';
      title.append(' ', link);
    }
    line.append(cell, make('td', suites[label]), make('td', number, 'num'), title, make('td', duration.toFixed(2) + ' s', 'num'));
    return line;
  };
  const more = () => {
    const part = document.createDocumentFragment();
    found.slice(shown, shown + PAGE).forEach((index) => part.append(render(rows[index])));
    body.append(part);
    shown = Math.min(found.length, shown + PAGE);
    find('count').textContent = found.length + ' of ' + rows.length + ' tests, ' + shown + ' shown';
    find('more').hidden = shown >= found.length;
  };
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), wanted = status.value;
    found = [];
    rows.forEach((row, index) => {
      const state = statuses[row[3]][0];
      if (suite.value && row[0] !== Number(suite.value)) return;
      if (wanted && (wanted === 'red' ? !row[5] : state !== wanted)) return;
      if (!words.length || words.every((word) => textOf(index).includes(word))) found.push(index);
    });
    if (order.value === 'slow') found.sort((a, b) => rows[b][4] - rows[a][4]);
    shown = 0;
    body.replaceChildren();
    more();
  };
  // A log is packed until somebody unfolds it. "toggle" does not bubble, so it is caught on its way down.
  const unpack = (text) => {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
  };
  document.addEventListener('toggle', async (event) => {
    const fold = event.target, number = fold.dataset && fold.dataset.slice;
    if (!number || !fold.open || fold.querySelector('pre')) return;
    const log = make('pre');
    log.tabIndex = 0;
    fold.append(log);
    try {
      const {text, mark} = data.slices[number];
      const lines = (await unpack(text)).split('\n');
      if (mark === undefined) { log.textContent = lines.join('\n'); return; }
      const marked = make('mark', lines[mark]);
      log.append(lines.slice(0, mark).map((line) => line + '\n').join(''), marked, '\n' + lines.slice(mark + 1).join('\n'));
      log.scrollTop = marked.offsetTop - log.offsetTop - log.clientHeight / 2;
    } catch (error) { log.textContent = 'This browser cannot unpack it: ' + error.message; }
  }, true);

  let pending;
  search.addEventListener('input', () => { clearTimeout(pending); pending = setTimeout(filter, 120); });
  for (const choice of [suite, status, order]) choice.addEventListener('change', filter);
  find('more').addEventListener('click', () => { const next = shown; more(); body.rows[next]?.querySelector('summary')?.focus(); });
  find('list').hidden = find('theme').hidden = false;
  filter();

  // A link to a suite's tests filters them; a link into something folded unfolds it.
  const unfold = () => {
    let element = location.hash && find(location.hash.slice(1));
    const target = element;
    for (; element; element = element.parentElement) if (element.tagName === 'DETAILS') element.open = true;
    if (target) target.scrollIntoView({block: target.tagName === 'MARK' ? 'center' : 'start'});
  };
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a');
    if (!link) return;
    if (link.dataset.suite) { suite.value = link.dataset.suite; search.value = status.value = ''; filter(); }
    else if (link.hash && link.hash === location.hash) unfold();
  });
  addEventListener('hashchange', unfold);
  if (location.hash) unfold();

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const here = document.activeElement;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(here.tagName);
    if (event.key === '/' && !typing) { event.preventDefault(); search.focus(); search.select(); }
    if (event.key === 'Escape' && here === search) { search.value = ''; filter(); }
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (!step || typing) return;
    const cell = here.closest('.matrix td'), fold = here.tagName === 'SUMMARY' && step[0] && here.closest('section');
    let next;
    if (cell) {
      const line = cell.closest('table').rows[cell.parentElement.rowIndex + step[0]];
      next = line?.cells[cell.cellIndex + step[1]]?.querySelector('a');
    } else if (fold) {
      const all = [...fold.querySelectorAll('summary')].filter((element) => element.offsetParent);
      next = all[all.indexOf(here) + step[0]];
    }
    if (next) { event.preventDefault(); next.focus(); }
  });
})();
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def page(title: str, body: str, data: str) -> str:
    """Return the document; the body is HTML, the data is JSON that cannot end its element."""
    policy = f"default-src 'none'; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; base-uri 'none'; form-action 'none'"
    return _PAGE.format(policy=policy, title=escape(title), style=STYLE, body=body, data=data, script=SCRIPT)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
