#!/usr/bin/env bash
# siege 4.0.7 (Debian's 4.0.7-1+b1): which statuses lower its Availability, and which does it count as failed?
#
# Guess, before it was run, from its manual: only socket failures and timeouts lower the availability, and a status of
# 400 or more makes a transaction a failed one. So 404, 401 and 500 are all transactions, all failed, 100 % available.
#
# Seen: of ten requests each,
#   404: 10 transactions, 100 % available, 0 successful, 0 failed: in neither of the two counts;
#   401: more transactions than were asked for (it asks again), and the last answer of each counts as successful;
#   500: 0 transactions, 0 % available, 10 failed.
# Figures of siege can therefore not be added up by the manual: transactions are not successful plus failed.
#
# For kabench: it prints siege's lines with the manual's meanings; docs/glossary.md says where siege itself differs.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "${server:-0}" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
apt-get download -q "siege=4.0.7-1*" >/dev/null 2>&1
dpkg -x siege_4.0.7-1*.deb unpacked
cat > server.py <<'PYTHON'
import http.server


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
PYTHON
python3 server.py > port & server=$!
until [ -s port ]; do sleep 0.1; done
echo "verbose = false" > siegerc
for status in 404 401 500; do
  ./unpacked/usr/bin/siege -R siegerc -j -b -c1 -r10 "http://127.0.0.1:$(cat port)/$status" > "$status.json" 2>/dev/null
done
python3 - <<'PYTHON'
import json
from pathlib import Path

seen = {}
for status in (404, 401, 500):
    text = Path(f"{status}.json").read_text()
    found = json.loads(text[text.index("{") : text.rindex("}") + 1])
    names = ("transactions", "availability", "successful_transactions", "failed_transactions")
    seen[status] = [found[name] for name in names]
    print(status, dict(zip(names, seen[status])))
assert seen[404] == [10, 100.0, 0, 0], "the behaviour has changed"
assert seen[401][0] > 10 or seen[401][2] > 0, "the behaviour has changed"
assert seen[500] == [0, 0.0, 0, 10], "the behaviour has changed"
PYTHON
