// A plain Node server: the port from the environment, logs to stdout, stops on SIGTERM.
const http = require("http");
const port = process.env.PORT || 3000;

const server = http.createServer((request, response) => {
  console.log(`${request.method} ${request.url}`);
  response.end(`hello from ${process.env.PS} on node ${process.version}\n`);
});

server.listen(port, () => console.log(`listening on ${port}`));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
