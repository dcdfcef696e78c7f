"""Gives clients and models in Python the content of our calls, and compares what they send with what we would send.

Usage: check.py calls.json judged.json sobject-types.jar
Every call must have been judged, here or by check.mjs; and spoilt calls must be found out.
"""

import asyncio
import copy
import functools
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import urllib.parse

import httpx
import requests

import _models  # of mcparmory-customerio-journeys-track, generated from Customer.io's OpenAPI document
import zendesk
from aiosalesforce import Salesforce
from aiosalesforce.auth import ClientCredentialsFlow
from customerio import CustomerIO
from customerio.client_base import CustomerIOException

CALLS, JUDGED, JAR = sys.argv[1:4]
calls = [c for c in json.load(open(CALLS)) if "path" in c]
judged = set(json.load(open(JUDGED)))
failures = 0
counts = {}
version = importlib.metadata.version


class Wrong(Exception):
    pass


def same(name, theirs, ours):
    if theirs != ours:
        raise Wrong(f"{name}: {theirs!r} there, {ours!r} here")


def compare(call, method, url, headers, body):
    parts = urllib.parse.urlsplit(url)
    path = parts.path + ("?" + urllib.parse.unquote(parts.query) if parts.query else "")
    same("method", method, call["method"])
    same("path", path, call["path"])
    same("authorization", headers.get("authorization"), call["headers"].get("authorization"))
    if call["body"] != "":
        same("body", json.loads(body), call["body"])


def basic(call):
    import base64

    value = call["headers"]["authorization"]
    if not value.startswith("Basic "):
        return None
    return base64.b64decode(value.removeprefix("Basic ")).decode().split(":", 1)


def customer_io_client(call):
    """The vendor's own client."""
    seen = []

    class Adapter(requests.adapters.BaseAdapter):
        def send(self, request, **_):
            seen.append(request)
            response = requests.Response()
            response.status_code = 200
            return response

        def close(self):
            pass

    site, key = basic(call)
    client = CustomerIO(site, key, host="track.customer.io", retries=0)
    client.http.mount("https://", Adapter())
    client.batch(call["body"]["batch"])
    compare(call, seen[0].method, seen[0].url, {k.lower(): v for k, v in seen[0].headers.items()}, seen[0].body)


def customer_io_models(call):
    _models.BatchRequest.model_validate({"body": call["body"]})
    for operation in call["body"]["batch"]:
        # The models let through what they do not know; what they know is all that we use.
        known = {
            "identify": {"attributes", "timestamp"},
            "event": {"name", "id", "timestamp", "attributes"},
            "delete": set(),
            "suppress": set(),
        }[operation["action"]]
        model = {
            "identify": _models.IdentifyPerson,
            "event": _models.PersonEvent,
            "delete": _models.PersonDelete,
            "suppress": _models.PersonSuppress,
        }[operation["action"]]
        names = {f.alias or f.serialization_alias or n for n, f in model.model_fields.items()}
        if surplus := set(operation) - names:
            raise Wrong(f"{operation['action']} has no {surplus}")
        if not known <= names:
            raise Wrong(f"{operation['action']} lacks {known - names}")


def zendesk_client(call):
    """Generated from Zendesk's OpenAPI document."""
    seen = []

    def answer(request):
        seen.append(request)
        return httpx.Response(200, json={"users": [], "count": 0, "job_status": {}})

    user = basic(call)
    security = zendesk.models.Security(username=user[0], password=user[1]) if user else None
    http = httpx.Client(transport=httpx.MockTransport(answer))
    # Of the two ways to prove who one is the document has only this one.
    headers = None if user else {"authorization": call["headers"]["authorization"]}
    client = zendesk.Zendesk(security=security, server_url="https://example.zendesk.com", client=http)
    path, _, query = call["path"].partition("?")
    query = dict(urllib.parse.parse_qsl(query))
    if found := re.fullmatch(r"/api/v2/deleted_users/(\d+)", path):
        act = functools.partial(client.users.permanently_delete_user, deleted_user_id=int(found[1]))
    elif found := re.fullmatch(r"/api/v2/job_statuses/(\w+)", path):
        act = functools.partial(client.job_statuses.show_job_status, job_status_id=found[1])
    elif path == "/api/v2/users/show_many":
        act = functools.partial(client.users.show_many_users, **query)
    elif path == "/api/v2/users/destroy_many":
        act = functools.partial(client.users.destroy_many_users, **query)
    elif path == "/api/v2/users/create_or_update_many":
        act = functools.partial(client.users.create_or_update_many_users, users=call["body"]["users"])
    else:
        raise Wrong("no operation of the document is known for it")
    try:
        act(http_headers=headers)
    except Exception:
        if not seen:
            raise
    request = seen[0]
    if users := call["body"] and call["body"]["users"]:
        # This client leaves out a user's nulls.
        call = copy.deepcopy(call)
        call["body"]["users"] = [{k: v for k, v in u.items() if v is not None} for u in users]
    compare(call, request.method, str(request.url), request.headers, request.content)


def salesforce_client(call):
    """Composite requests and the token."""
    seen = []

    def answer(request):
        if request.url.path.endswith("/token"):
            seen.append(request)
            return httpx.Response(200, json={"access_token": call["headers"].get("authorization", "Bearer t")[7:]})
        if request.url.path.endswith("/composite"):
            seen.append(request)
        requests = [{"httpStatusCode": 204, "body": None}] * 25
        return httpx.Response(200, json={"compositeResponse": requests})

    async def act():
        form = dict(urllib.parse.parse_qsl(call["body"])) if call["path"].endswith("/token") else {}
        flow = ClientCredentialsFlow(form.get("client_id", "i"), form.get("client_secret", "s"))
        http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        client = Salesforce(http, call["base"], flow, version="62.0")
        async with client.composite(all_or_none=False, autoraise=False) as composite:
            for request in call["body"]["compositeRequest"] if not form else [{"url": "/a/b/c/d/A/B/c"}]:
                *_, sobject, field, value = request["url"].split("/")
                composite.sobject.delete(sobject, value, field)

    asyncio.run(act())
    if call["path"].endswith("/token"):
        [token] = [r for r in seen if r.url.path.endswith("/token")]
        same("method", token.method, call["method"])
        same("path", token.url.path, call["path"])
        same("form", sorted(urllib.parse.parse_qsl(token.content.decode())), sorted(urllib.parse.parse_qsl(call["body"])))
        return
    [request] = [r for r in seen if r.url.path.endswith("/composite")]
    body = json.loads(request.content)
    ours = copy.deepcopy(call["body"])
    # Names of our own choice, and an option that this client always writes down; false is what Salesforce takes it for.
    references = [r.pop("referenceId") for r in ours["compositeRequest"]]
    for r in body["compositeRequest"]:
        r.pop("referenceId")
    if not all(re.fullmatch(r"[A-Za-z]\w*", r) for r in references) or len(set(references)) != len(references):
        raise Wrong("referenceId")
    same("collateSubrequests", body.pop("collateSubrequests"), False)
    same("authorization", request.headers["authorization"], call["headers"]["authorization"])
    same("method", request.method, call["method"])
    same("path", request.url.path, call["path"])
    same("body", body, ours)


@functools.cache
def fields(sobject):
    """Fields of a standard object and their types, of the classes that Apex tools take for it."""
    name = f"io.github.apexdevtools.sobjecttypes.{sobject}"
    text = subprocess.run(["javap", "-cp", JAR, "-public", name], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^  public (\S+\.)?(\w+) (\w+);$", text, re.MULTILINE)
    return {field: kind for _, kind, field in found}


FORMS = {
    "String": lambda v: isinstance(v, str) and len(v) <= 255,
    "Boolean": lambda v: isinstance(v, bool),
    "Id": lambda v: isinstance(v, str) and re.fullmatch(r"\w{15}|\w{18}", v),
    "Date": lambda v: isinstance(v, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", v),
    "Datetime": lambda v: isinstance(v, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", v),
    "Individual": lambda v: isinstance(v, dict) and list(v) == ["Gatelog_Id__c"],
}


def salesforce_fields(call):
    sobject = call["path"].split("/")[-2]
    for record in call["body"]["records"]:
        same("type", record["attributes"], {"type": sobject})
        for name, value in record.items():
            if name == "attributes" or name.endswith("__c"):
                continue
            kind = fields(sobject).get(name)
            if kind not in FORMS:
                raise Wrong(f"{sobject} has no {name} that can be written ({kind})")
            if value is not None and not FORMS[kind](value):
                raise Wrong(f"{sobject}.{name} is a {kind}, and {value!r} is none")


def judge(name, check, call):
    """What is wrong; none if nothing is."""
    try:
        check(call)
        return None
    except (Wrong, CustomerIOException, Exception) as e:  # noqa: B014
        return f"{type(e).__name__}: {e}"


def spoil(call, what):
    wrong = copy.deepcopy(call)
    body = wrong["body"] if isinstance(wrong["body"], dict) else {}
    match what:
        case "method":
            wrong["method"] = "PUT"
        case "path":
            wrong["path"] = wrong["path"].replace("/", "/x", 1)
        case "credential":
            wrong["headers"]["authorization"] += "x"
        case "operation":
            body["batch"][0]["action"] = "identity"
        case "surplus":
            (body.get("batch") or body["records"])[0]["surplus"] = "x"
        case "kind":
            body["records"][0].update({k: 7 for k in ("LastName", "Name") if k in body["records"][0]})
        case "request":
            body["compositeRequest"][0]["method"] = "PATCH"
    return wrong


def is_upsert(call):
    return "records" in call["body"]


HTTP = ["method", "path", "credential"]
judges = [
    (f"customerio {version('customerio')}", r"customer_io", lambda c: True, customer_io_client, HTTP),
    (
        f"models of mcparmory-customerio-journeys-track {version('mcparmory-customerio-journeys-track')}",
        r"customer_io",
        lambda c: True,
        customer_io_models,
        ["operation", "surplus"],
    ),
    (f"python-zendesk {version('python-zendesk')}", r"zendesk", lambda c: True, zendesk_client, ["method", "path"]),
    (
        f"aiosalesforce {version('aiosalesforce')}",
        r"salesforce",
        lambda c: c["path"].endswith(("/composite", "/token")),
        salesforce_client,
        ["method", "path"],
    ),
]
if shutil.which("javap"):
    judges.append(("sobject-types 67.0.0", r"salesforce", is_upsert, salesforce_fields, ["surplus", "kind"]))
else:
    print("NOT CHECKED: fields of Salesforce's objects; install a JDK (javap)")

spoilt = 0
for index, call in enumerate(calls):
    for name, case, applies, check, spoilers in judges:
        if not re.match(case, call["case"]) or not applies(call):
            continue
        path = re.sub(r"\?.*", "", re.sub(r"/\d{4,}$", "/{id}", call["path"]))
        key = f"{name}: {call['method']} {path}"
        counts[key] = counts.get(key, 0) + 1
        judged.add(index)
        if problem := judge(name, check, call):
            failures += 1
            print(f"NOT THE SAME: {call['case']} {key}\n  {problem}", file=sys.stderr)
        for what in spoilers:
            spoilt += 1
            if not judge(name, check, spoil(call, what)):
                failures += 1
                print(f"NOT FOUND OUT: {what} of {call['case']} {key}", file=sys.stderr)

for index, call in enumerate(calls):
    if index not in judged:
        failures += 1
        print(f"NOT JUDGED: {call['case']} {call['method']} {call['path']}", file=sys.stderr)
for key, count in counts.items():
    print(f"{count:3} x {key}")
print(f"{spoilt} spoilt calls, {'NOT all' if failures else 'all'} found out")
sys.exit(1 if failures else 0)
