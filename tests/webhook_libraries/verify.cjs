// Reads {secret, headers, body} from stdin; says whether the published library for Node.js accepts the delivery.
const { readFileSync } = require("node:fs");
const { Webhook } = require("standardwebhooks");

const { secret, headers, body } = JSON.parse(readFileSync(0, "utf8"));
let outcome = "accepted";
try {
  const payload = new Webhook(secret).verify(body, headers);
  if (JSON.stringify(payload) !== JSON.stringify(JSON.parse(body))) outcome = "another payload";
} catch (e) {
  outcome = `${e.name}: ${e.message}`;
}
console.log(outcome);
