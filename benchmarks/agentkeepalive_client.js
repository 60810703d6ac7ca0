// Load through agentkeepalive, closed model, for peers.py: prints one line of JSON.
// usage: node agentkeepalive_client.js URL METHOD BODY USERS SOCKETS SECONDS
const http = require('http');
const { HttpAgent } = require('agentkeepalive');

const [url, method, body, users, sockets, seconds] = process.argv.slice(2);
const agent = new HttpAgent({ maxSockets: Number(sockets), maxFreeSockets: Number(sockets), freeSocketTimeout: 30000 });
const target = new URL(url);
const options = {
  agent, method, host: target.hostname, port: target.port, path: target.pathname,
  headers: body ? { 'Content-Length': Buffer.byteLength(body), 'Content-Type': 'application/json' } : {},
};
const begun = process.hrtime.bigint();
const elapsed = () => Number(process.hrtime.bigint() - begun) / 1e9;
let requests = 0;
let busy = Number(users);

function next() {
  if (elapsed() >= Number(seconds)) {
    if (--busy === 0) {
      const usage = process.cpuUsage();
      console.log(JSON.stringify({ requests, elapsed_s: elapsed(), cpu_s: (usage.user + usage.system) / 1e6 }));
      process.exit(0);
    }
    return;
  }
  const request = http.request(options, (response) => {
    response.on('data', () => {});
    response.on('end', () => { requests += 1; next(); });
  });
  request.on('error', (error) => { throw error; });
  request.end(body);
}

for (let user = 0; user < Number(users); user++) next();
