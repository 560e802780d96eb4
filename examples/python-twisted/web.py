"""Twisted's own reactor: the port from the environment, logs to stdout, stops on SIGTERM."""

import os
import sys

import twisted
from twisted.internet import reactor
from twisted.python import log
from twisted.web import resource, server


class Hello(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        return f"hello from {os.environ.get('PS')} on Twisted {twisted.version.short()}\n".encode()


log.startLogging(sys.stdout)
reactor.listenTCP(int(os.environ.get("PORT", "8080")), server.Site(Hello()))
reactor.addSystemEventTrigger("before", "shutdown", lambda: log.msg("stopping"))
reactor.run()
