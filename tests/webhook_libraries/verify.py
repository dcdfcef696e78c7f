"""Reads {secret, headers, body} from stdin; says whether the published library for Python accepts the delivery."""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

given = json.loads(sys.stdin.buffer.read())
try:
    payload = Webhook(given["secret"]).verify(given["body"], given["headers"])
    print("accepted" if payload == json.loads(given["body"]) else "another payload")
except WebhookVerificationError as e:
    print(f"WebhookVerificationError: {e}")
