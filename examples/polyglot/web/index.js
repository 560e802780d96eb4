// Pages: the port from the environment, logs to stdout, answers what it has begun on SIGTERM.
const http = require("http");
const { PS, PORT, GREETING } = process.env;

const server = http.createServer((request, response) => {
  if (request.url === "/health") return response.end("ok\n");
  console.log(`${request.method} ${request.url}`);
  response.setHeader("Connection", "close");
  response.end(`${GREETING} from ${PS} on Node.js ${process.version}\n`);
});

server.listen(PORT, () => console.log(`listening on ${PORT}`));
process.on("SIGTERM", () => {
  console.log("stopping");
  server.close(() => process.exit(0));
});
