// A proxy through agentkeepalive, for proxy.py: requests to /k/PATH go to PATH through its agent, others through an agent
// that keeps no sockets. GETs become POSTs of BODY. `/-/status` has the counts of both.
// usage: node agentkeepalive_proxy.js PORT TARGET_PORT SOCKETS BODY
const http = require('http');
const { HttpAgent } = require('agentkeepalive');

const [port, targetPort, sockets, body] = process.argv.slice(2);
const agents = {
  keepalive: new HttpAgent({ maxSockets: Number(sockets), maxFreeSockets: Number(sockets), freeSocketTimeout: 30000 }),
  normal: new HttpAgent({ keepAlive: false, maxSockets: Number(sockets) }),
};

function figuresOf({ createSocketCount, requestCount }) {
  return { create_socket_count: createSocketCount, request_count: requestCount };
}

http.createServer((incoming, outgoing) => {
  if (incoming.url === '/-/status') {
    outgoing.end(JSON.stringify({ keepalive: figuresOf(agents.keepalive), normal: figuresOf(agents.normal) }));
    return;
  }
  const url = incoming.url.replace(/^\/post/, '');
  const isKept = url.startsWith('/k/');
  const options = {
    agent: isKept ? agents.keepalive : agents.normal,
    host: '127.0.0.1',
    port: Number(targetPort),
    method: 'POST',
    path: isKept ? url.slice(2) : url,
    headers: { 'Content-Length': Buffer.byteLength(body) },
  };
  incoming.resume();
  incoming.on('end', () => {
    const upstream = http.request(options, (answer) => {
      // with its length: siege loses its place on a socket behind a response in chunks
      outgoing.writeHead(answer.statusCode, { 'Content-Length': answer.headers['content-length'] });
      answer.pipe(outgoing);
    });
    upstream.on('error', (error) => { outgoing.statusCode = 502; outgoing.end(error.message); });
    upstream.end(body);
  });
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));
