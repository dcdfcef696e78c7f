// Gives the vendors' own clients the content of our calls and compares what they send with what we would send.
// Usage: node check.mjs calls.json   (run where the packages are installed)
// Then it spoils each call in several ways, and each of these must be found out. Bodies go to bodies.ts, for tsc, which must
// find an error in each line after a `@ts-expect-error`. What was judged goes to judged.json, for check.py.
import { createServer } from 'node:http';
import { readFileSync, writeFileSync } from 'node:fs';
import { isDeepStrictEqual, inspect } from 'node:util';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const { Client: Hubspot } = require('@hubspot/api-client');
const { ServerConfiguration, createConfiguration } = require('@hubspot/api-client/lib/codegen/crm/contacts');
const { GDPRApiRequestFactory } = require('@hubspot/api-client/lib/codegen/crm/contacts/apis/GDPRApi');
const { Analytics } = require('@segment/analytics-node');
const { DeletionAndSuppressionApi } = require('@segment/public-api-sdk-typescript');
const jsforce = require('jsforce');
const { createClient: zendesk } = require('node-zendesk');

const calls = JSON.parse(readFileSync(process.argv[2], 'utf8')).filter((c) => c.path);
const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version;

let seen = [];
let reply = () => ({});
const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const text = Buffer.concat(chunks).toString();
    let body = text;
    try { body = JSON.parse(text); } catch { /* no JSON */ }
    seen.push({ method: request.method, path: request.url, headers: request.headers, body });
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(reply(request)));
  });
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${server.address().port}`;

let failures = 0;
const counts = {};
function report(judge, call, problems) {
  const key = `${judge}: ${call.method} ${call.path.replace(/\?.*/, '').replace(/\d{4,}$/, '{id}')}`;
  counts[key] = (counts[key] ?? 0) + 1;
  for (const problem of problems) {
    failures += 1;
    console.error(`NOT THE SAME: ${call.case} ${key}\n  ${problem}`);
  }
}

const same = (name, theirs, ours) =>
  isDeepStrictEqual(theirs, ours) ? [] : [`${name}: the client sends ${inspect(theirs, { depth: 9 })}, we ${inspect(ours, { depth: 9 })}`];
const credential = (theirs, call) => same('authorization', theirs.headers.authorization, call.headers.authorization);
const json = (theirs) => (/^application\/json\b/.test(theirs.headers['content-type'] ?? '') ? [] : ['content-type is not JSON']);
const compare = (theirs, call) => [
  ...same('method', theirs.method, call.method), ...same('path', theirs.path, call.path), ...credential(theirs, call),
  ...json(theirs), ...same('body', theirs.body, call.body),
];
const token = (call) => call.headers.authorization.replace(/^\S+ /, '');

// Lets a client act and gives back the one request that it made.
async function request(act) {
  seen = [];
  await act();
  if (seen.length !== 1) throw new Error(`the client made ${seen.length} requests`);
  return seen[0];
}

async function segment(call) {
  if (call.path === '/regulations') {
    const api = new DeletionAndSuppressionApi(url);
    api.accessToken = token(call);
    reply = () => ({ data: { regulateId: 'r' } });
    const theirs = await request(() => api.createWorkspaceRegulation(call.body));
    return compare(theirs, call);
  }
  reply = () => ({ success: true });
  const [writeKey] = Buffer.from(token(call), 'base64').toString().split(':');
  const problems = [];
  const theirs = await request(async () => {
    const analytics = new Analytics({ writeKey, host: url, path: '/v1/batch', flushAt: call.body.batch.length, maxRetries: 0 });
    analytics.on('error', (error) => problems.push(`the client refuses: ${inspect(error)}`));
    for (const { type, ...message } of call.body.batch) analytics[type](message);
    await analytics.closeAndFlush();
  });
  problems.push(...same('method', theirs.method, call.method), ...same('path', theirs.path, call.path), ...json(theirs));
  // Newer clients put the write key into the body beside the header.
  const basic = `Basic ${Buffer.from(`${theirs.body.writeKey ?? writeKey}:`).toString('base64')}`;
  problems.push(...same('authorization', theirs.headers.authorization ?? basic, call.headers.authorization));
  problems.push(...Object.keys(call.body).filter((key) => !(key in theirs.body)).map((key) => `${key} is not in the client's body`));
  for (const ours of call.body.batch) {
    const message = theirs.body.batch.find((m) => m.messageId === ours.messageId) ?? {};
    for (const [key, value] of Object.entries(ours)) problems.push(...same(`${ours.type}.${key}`, message[key], value));
  }
  return problems;
}

async function hubspot(call) {
  const client = new Hubspot({ accessToken: token(call), basePath: url, numberOfApiCallRetries: 0 });
  const contacts = client.crm.contacts;
  // This one is generated but not among the client's own methods: its request is built and then sent by hand.
  const purge = async () => {
    const auth = createConfiguration({ authMethods: { oauth2: { accessToken: token(call) } } }).authMethods;
    const factory = new GDPRApiRequestFactory({ baseServer: new ServerConfiguration(url, {}), authMethods: auth });
    const built = await factory.purge(call.body);
    await fetch(built.getUrl(), { method: built.getHttpMethod(), headers: built.getHeaders(), body: built.getBody() });
  };
  const acts = {
    '/crm/v3/objects/contacts/batch/upsert': () => contacts.batchApi.upsert(call.body),
    '/crm/v3/objects/contacts/batch/read': () => contacts.batchApi.read(call.body),
    '/crm/v3/objects/contacts/batch/update': () => contacts.batchApi.update(call.body),
    '/crm/v3/objects/contacts/gdpr-delete': purge,
    '/communication-preferences/v3/unsubscribe': () => client.communicationPreferences.statusApi.unsubscribe(call.body),
  };
  if (!acts[call.path]) return ['no method of the client is known for it'];
  const theirs = await request(() => acts[call.path]().catch((error) => { if (!seen.length) throw error; }));
  return compare(theirs, call);
}

async function salesforce(call) {
  if (call.path === '/services/oauth2/token') {
    const form = new URLSearchParams(call.body);
    const oauth2 = new jsforce.OAuth2({ loginUrl: url, clientId: form.get('client_id'), clientSecret: form.get('client_secret') });
    reply = () => ({ access_token: 't', instance_url: url, id: `${url}/id/o/u` });
    const theirs = await request(() => oauth2.requestToken({ grant_type: 'client_credentials' }));
    const sorted = (text) => [...new URLSearchParams(text)].sort();
    return [...same('method', theirs.method, call.method), ...same('path', theirs.path, call.path), ...same('content-type', theirs.headers['content-type'], call.headers['content-type']), ...same('form', sorted(theirs.body), sorted(call.body))];
  }
  const found = /^\/services\/data\/v([\d.]+)\/composite\/sobjects\/(\w+)\/(\w+)$/.exec(call.path);
  // Composite requests are judged by check.py.
  if (!found) return null;
  const [, api, object, external] = found;
  reply = () => call.body.records.map(() => ({ success: true, errors: [] }));
  const connection = new jsforce.Connection({ instanceUrl: url, accessToken: token(call), version: api, maxRequest: 1 });
  const theirs = await request(() => connection.sobject(object).upsert(call.body.records, external, { allOrNone: false }));
  return compare(theirs, call);
}

async function zendeskCall(call) {
  const isBasic = call.headers.authorization.startsWith('Basic ');
  const [user, secret] = isBasic ? Buffer.from(token(call), 'base64').toString().split(/\/token:/) : [];
  const auth = isBasic ? { username: user, token: secret } : { oauth: true, token: token(call) };
  const client = zendesk({ ...auth, endpointUri: `${url}/api/v2` });
  const path = new URL(call.path, url);
  const ids = path.searchParams.get('ids')?.split(',').map(Number);
  reply = () => ({ users: [], job_status: {} });
  const acts = {
    '/api/v2/users/create_or_update_many': () => client.users.createOrUpdateMany(call.body),
    '/api/v2/users/destroy_many': () => client.users.destroyMany(ids, {}, () => {}),
  };
  const job = /^\/api\/v2\/job_statuses\/(\w+)$/.exec(path.pathname);
  const act = job ? () => client.jobstatuses.show(job[1]) : acts[path.pathname];
  // show_many by external id and deleted_users are judged by check.py.
  if (!act) return null;
  const theirs = await request(() => Promise.resolve(act()).catch((error) => { if (!seen.length) throw error; }));
  // This client writes the older form of paths.
  const plain = theirs.path.replace(/\.json/, '').replace('/?', '?').replaceAll('%2C', ',');
  const content = call.body === '' ? [] : [...json(theirs), ...same('body', theirs.body, call.body)];
  return [...same('method', theirs.method, call.method), ...same('path', plain, call.path), ...credential(theirs, call), ...content];
}

const judges = [
  [/^segment/, (call) => (call.path === '/regulations' ? '@segment/public-api-sdk-typescript' : '@segment/analytics-node'), segment],
  [/^hubspot/, () => '@hubspot/api-client', hubspot],
  [/^salesforce/, () => 'jsforce', salesforce],
  [/^zendesk/, () => 'node-zendesk', zendeskCall],
];

// None if no client here has this call.
async function judge(call) {
  const found = judges.find(([cases]) => cases.test(call.case));
  if (!found) return null;
  try { return await found[2](call); } catch (error) { return [`the client throws ${inspect(error, { depth: 2 })}`]; }
}

const elements = (body) => [body.batch, body.inputs, body.records, body.users].find(Array.isArray)?.[0] ?? body;
const spoilers = {
  method: (call) => { call.method = call.method === 'PUT' ? 'POST' : 'PUT'; },
  path: (call) => { call.path = call.path.replace(/^(\/\w)/, '$1x'); },
  credential: (call) => { call.headers.authorization = `Token ${call.headers.authorization}`; },
  // Clients that write down what they know, and no more, find what they do not know.
  surplus: (call) => { elements(call.body).surplus = 'x'; },
  nobody: (call) => { delete elements(call.body).userId; },
  envelope: (call) => { call.body.allOrNone = true; },
};
// What cannot be found out by the client: it hands on what it is given.
const blind = {
  surplus: (call) => /^(salesforce|zendesk)/.test(call.case) || typeof call.body !== 'object' || call.path === '/v1/batch',
  nobody: (call) => call.path !== '/v1/batch',
  envelope: (call) => !call.body.records,
  credential: (call) => !call.headers.authorization || call.path === '/v1/batch',
};

const judged = [];
let spoilt = 0;
for (const [index, call] of calls.entries()) {
  const problems = await judge(call);
  if (!problems) continue;
  judged.push(index);
  const name = judges.find(([cases]) => cases.test(call.case))[1](call);
  report(`${name} ${version(name)}`, call, problems);
  for (const [what, spoil] of Object.entries(spoilers)) {
    if (blind[what]?.(call)) continue;
    const wrong = structuredClone(call);
    spoil(wrong);
    spoilt += 1;
    if ((await judge(wrong))?.length === 0) {
      failures += 1;
      console.error(`NOT FOUND OUT: ${what} of ${call.case} ${call.path}`);
    }
  }
}
writeFileSync('judged.json', JSON.stringify(judged));

// Bodies as typed constants, for `tsc`: what a type does not know is an error there.
const types = [
  [/batch\/upsert$/, 'BatchInputSimplePublicObjectBatchInputUpsert', 'hub'],
  [/batch\/read$/, 'BatchReadInputSimplePublicObjectId', 'hub'],
  [/batch\/update$/, 'BatchInputSimplePublicObjectBatchInput', 'hub'],
  [/gdpr-delete$/, 'PublicGdprDeleteInput', 'hub'],
  [/v3\/unsubscribe$/, 'PublicUpdateSubscriptionStatusRequest', 'pref'],
];
const hub = '@hubspot/api-client/lib/codegen/crm/contacts/models/all.js';
const pref = '@hubspot/api-client/lib/codegen/communication_preferences/models/all.js';
const lines = [
  `import type * as hub from '${hub}';`,
  `import type * as pref from '${pref}';`,
  `import type { Analytics } from '@segment/analytics-node';`,
  `import type { User } from './node_modules/node-zendesk/dist/types/clients/core/users.js';`,
  `type Identify = Parameters<Analytics['identify']>[0] & { type: 'identify' };`,
  `type Track = Parameters<Analytics['track']>[0] & { type: 'track' };`,
  // As JSON has it: the name that a value of an enumeration stands for.
  'type Json<T> = { [K in keyof T]: T[K] extends string | undefined ? `${NonNullable<T[K]>}` : T[K] };',
  // The one property that this client's types lack; Zendesk's documents have it.
  `type Upserted = { [K in keyof User]?: User[K] | null } & { skip_verify_email?: boolean };`,
];
let bodies = 0;
const typed = (type, value) => {
  bodies += 1;
  lines.push(`export const b${lines.length}: ${type} = ${JSON.stringify(value)};`);
  const wrong = structuredClone(value);
  elements(wrong).surplus = 'x';
  lines.push('// @ts-expect-error', `export const b${lines.length}: ${type} = ${JSON.stringify(wrong)};`);
};
for (const call of calls) {
  const [, type, module] = types.find(([path]) => path.test(call.path)) ?? [];
  if (type) typed(`Json<${module}.${type}>`, call.body);
  if (call.path === '/v1/batch') for (const m of call.body.batch) typed(m.type === 'track' ? 'Track' : 'Identify', m);
  if (call.body?.users) for (const u of call.body.users) typed('Upserted', u);
}
writeFileSync('bodies.ts', `${lines.join('\n')}\n`);

server.close();
server.closeAllConnections();
for (const [key, count] of Object.entries(counts)) console.log(`${String(count).padStart(3)} x ${key}`);
console.log(`${spoilt} spoilt calls, ${failures ? 'NOT all' : 'all'} found out`);
console.log(`bodies.ts: ${bodies} bodies for tsc, each once more with a property that no type has`);
process.exit(failures ? 1 : 0);
