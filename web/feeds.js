// The page of a feed: what GET /v1/feeds/{feed}/status, the dead letters and GET /v1/statistics say, for people who look.
//
// Texts from the API go into the page as text only; the content security policy lets nothing else in (Trusted Types).
// The key is kept in sessionStorage: a reload, or going from the list to a feed, does not ask for it again, while it ends
// with the tab, is not shared with other tabs, and is sent by no browser of itself, as a cookie would be.
'use strict';

const EVERY = 3000; // milliseconds between two looks
const PATIENCE = 10000; // milliseconds after which the server counts as away
const CHART_EVERY = 60000; // counters of days need no more
const KEPT = 'gatelog-api-key';
const SVG = 'http://www.w3.org/2000/svg';

const $ = (id) => document.getElementById(id);
const feed = feedName();
let key = sessionStorage.getItem(KEPT);
let timer = 0;
let turn = 0; // of looks: only the last one that began shows what it found
let days = 30;
let chartAt = 0;
let statistics = null;
let shown = {};

function feedName() {
  const rest = location.pathname.replace(/^\/feeds\/?/, '');
  try { return decodeURIComponent(rest); } catch { return rest; }
}

// ---- Making elements -------------------------------------------------------------------------------------------------

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((c) => c != null && c !== false));
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.flat());
  return node;
}

// Replaces a part only where what it shows has changed, and leaves the keyboard where it was.
function part(id, data, build) {
  const text = JSON.stringify(data);
  if (shown[id] === text && $(id)) return;
  shown[id] = text;
  const focus = document.activeElement && document.activeElement.id;
  const node = build();
  node.id = id;
  if ($(id)) $(id).replaceWith(node); else $('content').append(node);
  if (focus && document.activeElement !== $(focus) && node.contains($(focus))) $(focus).focus();
}

function table(label, heads, rows, scroll, kind) {
  const head = heads.map(([name, n]) => el('th', { scope: 'col', class: n ? 'n' : null }, name));
  const body = rows.map((cells) => el('tr', {}, cells.map((cell, i) => {
    const [name, n] = heads[i];
    const inner = el('span', {}, cell);
    return i === 0 ? el('th', { scope: 'row', 'data-label': name }, inner)
      : el('td', { 'data-label': name, class: n ? 'n' : null }, inner);
  })));
  const made = el('table', { class: kind || 'stack', 'aria-label': label }, el('thead', {}, el('tr', {}, head)), el('tbody', {}, body));
  return scroll ? el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label }, made) : made;
}

// ---- Numbers and times -----------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat('en');
const perSecond = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const date = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const both = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });

const when = (text, format) => el('time', { datetime: text }, format.format(new Date(text)));
const count = (c) => whole.format(c.count) + (c.more ? '+' : '');
const records = (n) => whole.format(n) + (n === 1 ? ' record' : ' records');

function age(seconds) {
  if (seconds < 1) return '0 s';
  if (seconds < 120) return Math.round(seconds) + ' s';
  if (seconds < 7200) return Math.round(seconds / 60) + ' min';
  if (seconds < 172800) return Math.round(seconds / 3600) + ' h';
  return Math.round(seconds / 86400) + ' days';
}

function short(id) {
  return el('span', { class: 'mono', title: id }, id.slice(0, 8) + '…');
}

// ---- Asking the API --------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, body) { super(body.detail || body.title || ''); this.status = status; this.type = body.type || ''; this.title = body.title || ''; }
}

async function api(path, body) {
  const answer = await fetch(path, {
    method: body ? 'POST' : 'GET',
    headers: { authorization: 'Bearer ' + key, ...(body && { 'content-type': 'application/json' }) },
    body: body && JSON.stringify(body),
    credentials: 'omit', cache: 'no-store', redirect: 'error', signal: AbortSignal.timeout(PATIENCE),
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, told);
  return told;
}

const of = (rest) => '/v1/feeds/' + encodeURIComponent(feed) + rest;

// What went wrong, and what to do about it.
function remedy(e) {
  if (!(e instanceof Refused)) return 'The server does not answer. What you see is what it said last; the page tries again every ' + EVERY / 1000 + ' seconds.';
  if (e.status === 401) return 'This key is not known here, or it was revoked. Enter another one.';
  if (e.status === 403) {
    const one = feed ? ' or feeds:read:' + feed : '';
    return 'This key may not see ' + (feed ? 'this feed' : 'the list of all feeds') + ': it lacks the scope feeds:read' + one + '. Enter another key'
      + (feed ? '.' : ', or open a feed by its name below.');
  }
  if (e.status === 404) return 'There is no feed named ' + feed + '. Check the name in the address, or look at the list of all feeds.';
  return 'The node cannot answer this now: ' + (e.title ? e.title + '. ' : '') + e.message + ' The page tries again every ' + EVERY / 1000 + ' seconds.';
}

function say(id, text) {
  const box = $(id);
  if (box.textContent !== (text || '')) box.replaceChildren(...(text ? [el('p', {}, text)] : []));
  box.hidden = !text;
}

// ---- The parts of the page -------------------------------------------------------------------------------------------

const OUTCOMES = { taken: 'taken', failed: 'failed', asked_to_wait: 'asked to wait', gone: 'gone' };

function tile(name, number, more, bad) {
  return el('li', {}, el('div', { class: 'name' }, name), el('div', { class: bad ? 'number bad' : 'number' }, number), el('div', { class: 'muted small' }, more));
}

function tiles(status) {
  const all = status.consumers;
  const sum = (f) => all.reduce((n, c) => n + f(c), 0);
  const lag = all.reduce((most, c) => (c.lag.records > most.records ? c.lag : most), { records: 0, exact: true });
  const seconds = Math.max(0, ...all.map((c) => c.lag.seconds));
  const dead = { count: sum((c) => c.dead_letters.count), more: all.some((c) => c.dead_letters.more) };
  const waiting = sum((c) => c.lag.withdrawals);
  const open = status.unacknowledged_withdrawals;
  const outstanding = waiting + open.count;
  return el('ul', { class: 'tiles' },
    tile('Lag', (lag.exact ? '' : '≤ ') + whole.format(lag.records), all.length === 0 ? 'nobody is pushed to' : (lag.records === 1 ? 'record, ' : 'records, ') + age(seconds) + ' behind', lag.records > 0 && seconds > 60),
    tile('Throughput', perSecond.format(sum((c) => c.this_node.taken_per_second)) + ' /s', 'this node, over the last minute'),
    tile('Dead letters', count(dead), dead.count ? 'tried in vain' : 'nothing was given up', dead.count > 0),
    tile('Withdrawals', whole.format(outstanding) + (open.more ? '+' : ''), outstanding ? waiting + ' not yet told, ' + count(open) + ' not acknowledged' : 'all told and acknowledged', outstanding > 0 && seconds > 60));
}

const STATES = { live: ['live', ''], paused: ['paused', 'off'], gone: ['gone (410)', 'bad'], retired: ['feed retired', 'off'] };

function badge(text, kind) {
  return el('span', { class: 'state ' + kind }, text);
}

function consumers(status) {
  if (status.consumers.length === 0) {
    return el('section', { class: 'card' }, el('h2', {}, 'Consumers'), el('p', { class: 'muted' },
      'No webhook and no topic is set. Who follows this feed by page or stream keeps the cursor, so how far that is is not known here.'));
  }
  const rows = status.consumers.map((c) => {
    const lag = c.lag;
    const [text, kind] = STATES[c.state] || [c.state, ''];
    const begun = lag.partitions_begun < lag.partitions ? 'begun in ' + lag.partitions_begun + ' of ' + lag.partitions + ' partitions'
      : lag.snapshots_open > 0 ? 'everyone’s state is still handed over' : null;
    const totals = c.this_node.totals;
    const node = c.this_node.since ? whole.format(totals.taken || 0) + ' taken' + (totals.failed ? ', ' + whole.format(totals.failed) + ' failed' : '') + (totals.withheld ? ', ' + whole.format(totals.withheld) + ' withheld' : '') : 'nothing';
    const dead = [count(c.dead_letters)];
    if (c.dead_letters.count > 0 && status.may_redrive) {
      dead.push(' ', el('button', { type: 'button', class: 'plain little', id: 'all-' + c.name, onclick: (e) => redrive(e.target, c.name, null), 'aria-label': 'Send all dead letters of ' + c.name + ' again' }, 'Send all again'));
    }
    return [
      [c.name, el('div', { class: 'muted small' }, c.kind + ', version ' + c.version)],
      badge(text, kind),
      [(lag.exact ? '' : 'at most ') + records(lag.records), begun && el('div', { class: 'muted small' }, begun)],
      age(lag.seconds),
      perSecond.format(c.this_node.taken_per_second) + ' /s',
      node,
      dead,
    ];
  });
  return el('section', { class: 'card' }, el('h2', {}, 'Consumers'),
    table('Consumers', [['Name'], ['State'], ['Behind'], ['Oldest'], ['Taken per second'], ['This node, since start'], ['Dead letters']], rows));
}

function deliveries(status) {
  const all = status.consumers.flatMap((c) => c.this_node.deliveries.map((d) => [c.name, d]));
  all.sort(([, a], [, b]) => (a.time < b.time ? 1 : -1));
  const rows = all.slice(0, 50).map(([name, d]) => [
    when(d.time, clock), name, d.kind, short(d.subject),
    badge(OUTCOMES[d.outcome] || d.outcome, d.outcome === 'taken' ? '' : 'bad'),
    d.status == null ? '–' : String(d.status), whole.format(d.milliseconds) + ' ms',
  ]);
  const heads = [['Time'], ['Consumer'], ['Record'], ['Subject'], ['Outcome'], ['Status', true], ['Took', true]];
  return el('section', { class: 'card' }, el('h2', {}, 'Last deliveries'),
    el('p', { class: 'muted small' }, 'By this node, since its start. Subjects are named as the consumer knows them; nothing of what was sent is shown.'),
    rows.length ? table('Last deliveries', heads, rows, true, 'stack log') : el('p', { class: 'muted' }, 'None yet.'));
}

function deadLetters(letters, may) {
  const section = el('section', { class: 'card' }, el('h2', {}, 'Dead letters'));
  if (!may) {
    section.append(el('p', { class: 'muted' }, 'To see them and send them again, the key needs the scope feeds:write.'));
    return section;
  }
  const rows = letters.map(([name, d]) => [
    when(d.since, both), name, short(d.subject), String(d.attempts), d.reason,
    d.redriven_at ? ['is sent again since ', when(d.redriven_at, clock)]
      : el('button', { type: 'button', class: 'plain little', id: 'again-' + d.record, onclick: (e) => redrive(e.target, name, d.record) }, 'Send again'),
  ]);
  section.append(table('Dead letters', [['Since'], ['Consumer'], ['Subject'], ['Attempts', true], ['Reason'], ['']], rows, true));
  return section;
}

async function redrive(button, webhook, record) {
  button.disabled = true;
  try {
    const done = await api(of('/webhooks/' + encodeURIComponent(webhook) + '/dead-letters/redrive'), record ? { records: [record] } : {});
    say('said', records(done.records) + ' will be sent to ' + webhook + ' again.');
    look();
  } catch (e) {
    button.disabled = false;
    say('problem', e instanceof Refused ? 'It was not sent again: ' + e.message : remedy(e));
  }
}

// ---- Consent over time -----------------------------------------------------------------------------------------------

// One entry per day of the range: a day on which nothing was counted has the total of the day before.
function series(told, purpose) {
  const name = (what) => 'consent.' + purpose + '.' + what;
  const known = new Map(told.days.map((d) => [d.date, d.counters]));
  const out = [];
  let total = 0;
  for (let t = Date.parse(told.from); t <= Date.parse(told.to); t += 86400000) {
    const day = new Date(t).toISOString().slice(0, 10);
    const c = known.get(day) || {};
    total = c[name('total')] ?? total;
    out.push({ day, total, granted: c[name('granted')] || 0, withdrawn: c[name('withdrawn')] || 0, known: known.has(day) });
  }
  return out;
}

function nice(most) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(1, most)));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((n) => n * unit).find((n) => n >= most) || 1;
}

function draw(points, purpose, width) {
  const left = 44, right = 8, top = 12, high = 150, gap = 26, low = 56;
  const inner = Math.max(80, width - left - right);
  const most = nice(Math.max(1, ...points.map((p) => p.total)));
  const moves = nice(Math.max(1, ...points.flatMap((p) => [p.granted, p.withdrawn])));
  const x = (i) => left + (points.length < 2 ? inner / 2 : 4 + (inner - 8) * i / (points.length - 1));
  const y = (n) => top + high - high * n / most;
  const middle = top + high + gap + low / 2;
  const first = points[0], last = points[points.length - 1];
  const sum = (what) => points.reduce((n, p) => n + p[what], 0);
  const chart = svg('svg', { class: 'chart', role: 'img', 'aria-labelledby': 'chart-title chart-desc', viewBox: '0 0 ' + width + ' ' + (top + high + gap + low + 24), height: top + high + gap + low + 24 });
  chart.append(
    svg('title', { id: 'chart-title' }, 'Consent to ' + purpose + ' over time'),
    svg('desc', { id: 'chart-desc' }, 'From ' + first.day + ' to ' + last.day + ': ' + whole.format(first.total) + ' people with consent at the beginning, ' + whole.format(last.total) + ' at the end; '
      + whole.format(sum('granted')) + ' times granted, ' + whole.format(sum('withdrawn')) + ' times withdrawn.'));
  for (const n of [0, most / 2, most].filter(Number.isInteger)) {
    chart.append(svg('line', { class: 'grid', x1: left, x2: width - right, y1: y(n), y2: y(n) }), svg('text', { x: left - 8, y: y(n) + 4, 'text-anchor': 'end' }, whole.format(n)));
  }
  const line = points.map((p, i) => x(i).toFixed(1) + ' ' + y(p.total).toFixed(1)).join(' L');
  chart.append(svg('path', { class: 'area', d: 'M' + x(0) + ' ' + y(0) + ' L' + line + ' L' + x(points.length - 1) + ' ' + y(0) + ' Z' }), svg('path', { class: 'total', d: 'M' + line }));
  chart.append(svg('line', { class: 'grid', x1: left, x2: width - right, y1: middle, y2: middle }));
  chart.append(svg('text', { x: left - 8, y: middle - low / 2 + 9, 'text-anchor': 'end' }, '+' + whole.format(moves)), svg('text', { x: left - 8, y: middle + low / 2, 'text-anchor': 'end' }, '−' + whole.format(moves)));
  const bar = Math.max(1.5, Math.min(14, inner / points.length * 0.6));
  points.forEach((p, i) => {
    const height = (n) => (low / 2) * n / moves;
    if (p.granted) chart.append(svg('rect', { class: 'granted', x: x(i) - bar / 2, width: bar, y: middle - height(p.granted), height: height(p.granted) }));
    if (p.withdrawn) chart.append(svg('rect', { class: 'withdrawn', x: x(i) - bar / 2, width: bar, y: middle, height: height(p.withdrawn) }));
    if (p.known) chart.append(svg('circle', { class: 'point', cx: x(i), cy: y(p.total), r: 4 }, svg('title', {}, p.day + ': ' + whole.format(p.total) + ' with consent, ' + p.granted + ' granted, ' + p.withdrawn + ' withdrawn')));
  });
  const bottom = top + high + gap + low + 18;
  const label = (i, anchor) => svg('text', { x: x(i), y: bottom, 'text-anchor': anchor }, date.format(new Date(points[i].day)));
  chart.append(label(0, 'start'), label(points.length - 1, 'end'));
  if (width > 520 && points.length > 4) chart.append(label(Math.floor(points.length / 2), 'middle'));
  return chart;
}

function legend() {
  const entry = (mark, text) => el('li', {}, svg('svg', { viewBox: '0 0 12 12', 'aria-hidden': 'true', class: 'chart' }, mark), text);
  return el('ul', { class: 'legend' },
    entry(svg('path', { class: 'total', d: 'M0 6h12' }), 'people with consent'),
    entry(svg('rect', { class: 'granted', width: 12, height: 12, rx: 2 }), 'granted on a day (up)'),
    entry(svg('rect', { class: 'withdrawn', width: 12, height: 12, rx: 2 }), 'withdrawn on a day (down)'));
}

function consent(status) {
  const section = el('section', { class: 'card' });
  const range = el('select', { id: 'days', onchange: (e) => { days = Number(e.target.value); chartAt = 0; look(); } },
    [[30, '30 days'], [90, '90 days'], [365, 'a year']].map(([n, text]) => el('option', { value: n, selected: n === days }, text)));
  section.append(el('div', { class: 'row' }, el('h2', {}, 'Consent over time'), status.purpose && el('div', {}, el('label', { for: 'days' }, 'Show'), range)));
  if (!status.purpose) {
    section.append(el('p', { class: 'muted' }, 'This feed rests on no purpose, so there is no consent to draw.'));
  } else if (statistics instanceof Error) {
    section.append(el('p', { class: 'muted' }, statistics.status === 403 ? 'The chart needs a key with the scope statistics:read; this one lacks it.' : 'The statistics cannot be read now: ' + (statistics.message || 'the server does not answer') + ' The page tries again.'));
  } else if (statistics) {
    const points = series(statistics, status.purpose);
    const box = el('div', { id: 'chart' });
    const rows = points.filter((p) => p.known).reverse().map((p) => [p.day, whole.format(p.total), whole.format(p.granted), whole.format(p.withdrawn)]);
    section.append(box, legend(), el('details', {}, el('summary', {}, 'As a table'),
      rows.length ? table('Consent to ' + status.purpose + ' by day', [['Day (UTC)'], ['With consent', true], ['Granted', true], ['Withdrawn', true]], rows, true) : el('p', { class: 'muted' }, 'Nothing was counted in this time.')));
    new ResizeObserver(() => {
      const width = Math.floor(box.clientWidth);
      if (width > 0 && box.dataset.width !== String(width)) { box.dataset.width = width; box.replaceChildren(draw(points, status.purpose, width)); }
    }).observe(box);
  }
  return section;
}

async function refreshStatistics() {
  if (Date.now() - chartAt < CHART_EVERY) return;
  chartAt = Date.now();
  const from = new Date(Date.now() - (days - 1) * 86400000).toISOString().slice(0, 10);
  statistics = await api('/v1/statistics?from=' + from).catch((e) => e);
  // What failed for a moment is asked again at once.
  if (statistics instanceof Error && statistics.status !== 403) chartAt = 0;
}

// ---- The two pages ---------------------------------------------------------------------------------------------------

async function readFeed() {
  const status = await api(of('/status'));
  if (status.purpose) await refreshStatistics();
  const letters = [];
  if (status.may_redrive) {
    for (const c of status.consumers.filter((c) => c.dead_letters.count > 0)) {
      const page = await api(of('/webhooks/' + encodeURIComponent(c.name) + '/dead-letters?limit=50'));
      letters.push(...page.dead_letters.map((d) => [c.name, d]));
    }
  }
  return () => showFeed(status, letters);
}

function showFeed(status, letters) {
  const dead = status.consumers.some((c) => c.dead_letters.count > 0);
  $('about').textContent = 'Version ' + status.newest_version + (status.purpose ? ', gated by consent to ' + status.purpose : ', without a purpose') + (status.retired_at ? '. Retired: nothing leaves by it.' : '');
  part('tiles', [status.consumers.map((c) => [c.lag, c.this_node.taken_per_second, c.dead_letters]), status.unacknowledged_withdrawals], () => tiles(status));
  part('consumers', [status.consumers.map(({ this_node: { deliveries, ...node }, ...c }) => [c, node]), status.may_redrive], () => consumers(status));
  part('dead', [dead, letters, status.may_redrive], () => (dead ? deadLetters(letters, status.may_redrive) : el('div', { hidden: true })));
  part('consent', [status.purpose, statistics instanceof Error ? statistics.message : statistics, days], () => consent(status));
  part('deliveries', status.consumers.map((c) => [c.name, c.this_node.deliveries]), () => deliveries(status));
}

function byName() {
  const input = el('input', { id: 'name', required: true, autocomplete: 'off', autocapitalize: 'none', spellcheck: 'false' });
  return el('form', { class: 'card narrow', onsubmit: (e) => { e.preventDefault(); location.assign('/feeds/' + encodeURIComponent(input.value.trim())); } },
    el('h2', {}, 'Open a feed'), el('label', { for: 'name' }, 'Name of the feed'), input, el('button', { type: 'submit' }, 'Open'));
}

async function readList() {
  const all = Object.entries((await api('/v1/feeds')).feeds);
  return () => showList(all);
}

function showList(all) {
  part('list', all, () => {
    const rows = all.map(([name, f]) => {
      const newest = f.versions[f.versions.length - 1] || {};
      return [[el('a', { href: '/feeds/' + encodeURIComponent(name) }, name), newest.description && el('div', { class: 'muted small' }, newest.description)],
        newest.purpose || 'no purpose', String(f.newest), f.retired_at ? badge('retired', 'off') : badge('live', '')];
    });
    return el('section', { class: 'card' }, rows.length ? table('Feeds', [['Name'], ['Purpose'], ['Version'], ['State']], rows)
      : el('p', { class: 'muted' }, 'There is no feed yet. ', el('code', {}, 'gatelog feed create'), ' makes one.'));
  });
}

async function look() {
  clearTimeout(timer);
  const mine = ++turn;
  if (!key) return ask();
  try {
    const show = await (feed ? readFeed() : readList());
    if (mine !== turn) return;
    show();
    say('problem', null);
    $('content').hidden = false;
    $('content').classList.remove('stale');
    $('ask').hidden = true;
    $('updated').textContent = 'Updated ' + clock.format(new Date());
  } catch (e) {
    if (mine !== turn) return;
    say('problem', remedy(e));
    if (e instanceof Refused && e.status === 401) return forget();
    $('content').classList.add('stale');
    if (e instanceof Refused && e.status === 403) {
      ask();
      if (!feed) { $('content').hidden = false; $('content').classList.remove('stale'); part('by-name', '', byName); }
      return;
    }
    if (e instanceof Refused && e.status === 404) return;
  }
  // Nobody looks at a tab in the background.
  if (!document.hidden) timer = setTimeout(look, EVERY);
}

function ask() {
  $('ask').hidden = false;
  $('forget').hidden = !key;
  $('key').focus();
}

function forget() {
  turn++;
  sessionStorage.removeItem(KEPT);
  key = null;
  shown = {};
  statistics = null;
  chartAt = 0;
  $('content').replaceChildren();
  $('content').hidden = true;
  $('updated').textContent = '';
  ask();
}

$('ask').addEventListener('submit', (e) => {
  e.preventDefault();
  key = $('key').value.trim();
  $('key').value = '';
  // A header takes no other characters; such a key is none.
  if (!/^[\x21-\x7e]+$/.test(key)) { say('problem', 'A key has letters, digits and signs only, and no spaces. Enter it again.'); key = null; return ask(); }
  sessionStorage.setItem(KEPT, key);
  $('forget').hidden = false;
  say('said', null);
  chartAt = 0;
  look();
});
$('forget').addEventListener('click', () => { clearTimeout(timer); say('problem', null); say('said', null); forget(); });
document.addEventListener('visibilitychange', () => { if (!document.hidden) look(); });

if (feed) {
  document.title = feed + ' · Feeds · Gatelog';
  $('title').textContent = feed;
  $('scope').textContent = 'feeds:read or feeds:read:' + feed;
}
$('forget').hidden = !key;
look();
