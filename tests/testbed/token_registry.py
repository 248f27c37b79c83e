#!/usr/bin/python3
"""A registry that demands bearer tokens, in front of a plain one: token_registry.py UPSTREAM_PORT PORT

Every /v2/ request without a token of its repository is answered 401 with realm, service and scope, as Docker Hub does.
/token gives them: to anybody for most repositories, for those below private/ only to user `test`, password `secret`
(basic authentication); private/X is X of the plain registry.  A token lives for a minute and for one repository; one of
a repository below brief/ lives for its first request alone.
/oauth is another token server, that knows OAuth2 alone: POST with grant_type=password of that user, or
grant_type=refresh_token with `identity-1`, which answers with a new one, identity-2, and so on: each is taken once.
Repositories below oauth/ name it as their realm; oauth/X is X, too.
Blobs are redirected to another host name (localhost for 127.0.0.1), and a client that carries its token there gets
400, as it does from object stores.  /stats counts the requests: {"token": n, "unauthorized": n, "blob": n, ...}.
"""
import base64
import collections
import http.client
import http.server
import json
import re
import secrets
import sys
import time
import urllib.parse

upstream, port = int(sys.argv[1]), int(sys.argv[2])
tokens = {}                                          # token -> (repository, monotonic time of its end)
identity = 1                                         # the next refresh token that is taken
counts = collections.Counter()
PRIVATE = 'Basic ' + base64.b64encode(b'test:secret').decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def answer(self, status, body=b'', **headers):
        if isinstance(body, dict):
            body, headers['Content_Type'] = json.dumps(body).encode(), 'application/json'
        self.send_response(status)
        for k, v in {'Content_Length': str(len(body)), **headers}.items():
            self.send_header(k.replace('_', '-'), v)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def token(self, query):
        counts['token'] += 1
        scope = query.get('scope', [''])[0]
        repo = re.fullmatch(r'repository:(.+):pull', scope)
        if query.get('service') != ['userpod-test']:
            return self.answer(400, {'errors': [{'code': 'UNSUPPORTED', 'message': 'wrong service'}]})
        given = self.headers.get('Authorization')
        if (given or (repo and repo[1].startswith('private/'))) and given != PRIVATE:
            return self.answer(401, {'errors': [{'code': 'UNAUTHORIZED', 'message': 'wrong user or password'}]})
        # Some servers call it token, some access_token.
        self.give('access_token' if repo and repo[1] == 'test/user' else 'token', repo[1] if repo else None)

    def give(self, name, repo, **more):
        token = secrets.token_urlsafe(32)
        tokens[token] = (repo, time.monotonic() + 60)
        self.answer(200, {name: token, 'expires_in': 60, **more})

    def do_POST(self):
        global identity
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers.get('Content-Length', 0))).decode()))
        repo = re.fullmatch(r'repository:(.+):pull', form.get('scope', ''))
        if self.path != '/oauth':
            return self.answer(405)
        counts[form.get('grant_type', '')] += 1
        if form.get('service') != 'userpod-test' or not form.get('client_id') or not repo:
            return self.answer(400, {'error': 'invalid_request'})
        if form.get('grant_type') == 'password' and (form.get('username'), form.get('password')) == ('test', 'secret'):
            return self.give('access_token', repo[1])
        if form.get('grant_type') == 'refresh_token' and form.get('refresh_token') == f'identity-{identity}':
            identity += 1
            counts['refreshed'] += 1
            return self.give('access_token', repo[1], refresh_token=f'identity-{identity}')
        self.answer(401, {'error': 'invalid_grant', 'error_description': 'wrong user, password or identity token'})

    def allowed(self, repo):
        scheme, _, token = self.headers.get('Authorization', '').partition(' ')
        of, end = tokens.get(token, (None, 0))
        if repo and repo.startswith('brief/'):
            tokens.pop(token, None)
        return scheme.lower() == 'bearer' and end > time.monotonic() and repo in (of, None)

    def relay(self, path):
        """The plain registry's answer, in pieces: layers are large."""
        up = http.client.HTTPConnection('127.0.0.1', upstream, timeout=60)
        keep = {k: v for k, v in self.headers.items() if k.lower() in ('accept', 'range')}
        up.request(self.command, path, headers=keep)
        got = up.getresponse()
        self.send_response(got.status)
        for k, v in got.getheaders():
            if k.lower() in ('content-type', 'content-length', 'docker-content-digest', 'content-range', 'etag'):
                self.send_header(k, v)
        self.end_headers()
        while self.command != 'HEAD' and (piece := got.read(1 << 16)):
            self.wfile.write(piece)
        up.close()

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.path == '/stats':
            return self.answer(200, dict(counts))
        if url.path == '/oauth':
            return self.answer(405)
        if url.path == '/token':
            return self.token(urllib.parse.parse_qs(url.query))
        if url.path.startswith('/cdn/'):
            if 'Authorization' in self.headers:
                counts['leaked'] += 1
                return self.answer(400, b'only one way to authenticate is allowed\n')
            counts['blob'] += 1
            return self.relay('/v2/' + url.path[5:])
        m = re.fullmatch(r'/v2/(?:(.+)/(manifests|blobs)/([^/]+))?', url.path)
        if not m:
            return self.answer(404, {'errors': [{'code': 'NAME_UNKNOWN', 'message': 'no such page'}]})
        repo = m[1]
        if not self.allowed(repo):
            counts['unauthorized'] += 1
            scope = f',scope="repository:{repo}:pull"' if repo else ''
            place = 'oauth' if repo and repo.startswith('oauth/') else 'token'
            return self.answer(401, {'errors': [{'code': 'UNAUTHORIZED', 'message': 'authentication required'}]},
                               WWW_Authenticate=f'Bearer realm="http://127.0.0.1:{port}/{place}",service="userpod-test"{scope}')
        if not repo:
            return self.answer(200, {})
        name = re.sub('^(private|brief|oauth)/', '', repo)
        if m[2] == 'blobs':
            return self.answer(307, Location=f'http://localhost:{port}/cdn/{name}/blobs/{m[3]}')
        counts['manifest'] += 1
        self.relay(f'/v2/{name}/manifests/{m[3]}')

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler).serve_forever()
