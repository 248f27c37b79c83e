#!/usr/bin/python3
"""Pulls from registries that are secured, refuse, break, stall, lie and redirect: tests/testbed/registries serves them."""
import base64
import contextlib
import gzip
import http.client
import json
import os
import shutil
import sys
import time
import unittest

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from lying_registry import LyingRegistry  # noqa: E402
from registry_images import DOCKER, Layer, digest_of  # noqa: E402

Code = cri.Code
DIRECTORY = os.environ.get('USERPOD_REGISTRY_DIR', '')
CONTAINERS = (os.environ.get('XDG_CONFIG_HOME') or os.path.expanduser('~/.config')) + '/containers'
SECRET = 'X-Signature'                               # of redirects: no error and no log may hold it


def port(name):
    with open(f'{DIRECTORY}/{name}_port', encoding='utf-8') as f:
        return int(f.read())


def lines(name):
    with open(f'{DIRECTORY}/{name}', encoding='utf-8') as f:
        return f.read().splitlines()


def told(name, fits, after=0):
    """Waits for lines of a server's log that are so: it may write them after the last byte of its answer."""
    return cri.wait_until(lambda: [line for line in lines(name)[after:] if fits(line)], what=f'a line of {name}')


def faults(method, path='/seen'):
    connection = http.client.HTTPConnection('127.0.0.1', port('faults'), timeout=30)
    connection.request(method, path)
    text = connection.getresponse().read()
    connection.close()
    return json.loads(text) if text else None


class Pulls(unittest.TestCase):
    """What a test pulls and puts into the user's containers configuration is taken away after it."""

    def setUp(self):
        self.made = []
        self.addCleanup(self.clean)
        self.since = time.time()
        self.connect()
        faults('DELETE')

    def connect(self):
        self.cri = cri.Cri()
        self.addCleanup(self.cri.channel.close)
        cri.wait_until(lambda: cri.code_of(self.cri.Version) == Code.OK, timeout=20, what='an answer of the daemon')

    def clean(self):
        for path in reversed(self.made):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def configure(self, path, text):
        """A file below ~/.config/containers, with the directories that it needs."""
        path = f'{CONTAINERS}/{path}'
        made = []
        while not os.path.isdir(parent := os.path.dirname(made[-1] if made else path)):
            made.append(parent)
        self.made += reversed(made)
        if made:
            os.makedirs(made[0])
        if path not in self.made:
            self.made.append(path)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)

    def trust(self, host, *client):
        """The test authority's certificate for this host; with a client certificate, of that name."""
        files = [('ca.crt', 'ca.crt')] + [x for name in client for x in ((f'{name}.crt', 'client.cert'), (f'{name}.key', 'client.key'))]
        for name, to in files:
            with open(f'{DIRECTORY}/tls/{name}', encoding='utf-8') as f:
                self.configure(f'certs.d/{host}/{to}', f.read())

    def pull(self, reference, **auth):
        """It succeeds, and goes."""
        ref = self.cri.PullImage(image={'image': reference}, auth=auth).image_ref
        self.cri.RemoveImage(image={'image': ref})

    def refused(self, reference, *words, unavailable=True, **auth):
        """It fails with all of the words; unavailable: as kubelet knows a registry that cannot be had."""
        with self.assertRaises(cri.grpc.RpcError, msg=reference) as failed:
            self.cri.PullImage(image={'image': reference}, auth=auth)
        text = failed.exception.details()
        print(f'{reference}: {text}')
        self.assertEqual(failed.exception.code(), Code.UNKNOWN, text)
        self.assertEqual(text.startswith('RegistryUnavailable: '), unavailable, text)
        for word in words:
            self.assertIn(word, text)
        self.assertNotIn(SECRET, text)
        self.assertNotIn('guess', text)
        return text

    def journal(self):
        return cri.run('journalctl', '--user', '--no-pager', '-o', 'cat', f'--since=@{int(self.since)}')

    def blobs(self):
        """[path, Range] of the faulty registry's blobs."""
        return [(path, span) for path, span, _ in faults('GET') if '/blobs/' in path]


class Tls(Pulls):
    def test_authorities_of_certs_d(self):
        for name in ('tls', 'nginxs'):
            host = f'127.0.0.1:{port(name)}'
            image = f'{host}/test/busybox' if name == 'tls' else f'{host}/mirror/test/busybox'
            self.refused(image, 'unknown authority', f'{CONTAINERS}/certs.d/{host}/ca.crt')
            self.trust(host)
            self.pull(image)
        told('nginx.access', lambda line: '/mirror/' in line and line.endswith('|HTTP/2.0'))

    def test_other_names_of_this_machine(self):
        self.trust(f'localhost:{port("tls")}')
        self.pull(f'localhost:{port("tls")}/test/busybox')

    def test_certificates_that_are_wrong(self):
        for name, word in (('expired', 'has expired'), ('other', 'another host name')):
            host = f'127.0.0.1:{port(name)}'
            self.trust(host)
            self.refused(f'{host}/mirror/test/busybox', word)

    def test_insecure(self):
        for name in ('expired', 'other', 'nginx'):
            host = f'127.0.0.1:{port(name)}'
            self.configure(f'registries.conf.d/99-userpod-{name}.conf', f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        time.sleep(0.3)                              # the files are looked at four times a second
        for name in ('expired', 'other', 'nginx'):
            self.pull(f'127.0.0.1:{port(name)}/mirror/test/busybox')

    def test_client_certificates(self):
        for name, repository in (('mtls', 'test/busybox'), ('nginxm', 'mirror/test/busybox')):
            host = f'127.0.0.1:{port(name)}'
            self.trust(host)
            self.refused(f'{host}/{repository}', 'demands a client certificate', f'certs.d/{host}', unavailable=False)
            self.trust(host, 'client')
            self.pull(f'{host}/{repository}')

    def test_password(self):
        host = f'127.0.0.1:{port("htpasswd")}'
        self.trust(host)
        image = f'{host}/test/busybox'
        self.refused(image, 'demands credentials', unavailable=False)
        self.refused(image, 'refuses the credentials', unavailable=False, username='test', password='guess')
        self.pull(image, username='test', password='secret')
        self.pull(image, auth=base64.b64encode(b'test:secret').decode())
        self.assertNotIn('guess', self.journal())


class Tokens(Pulls):
    @unittest.skipUnless(cri.TOKEN_REGISTRY, 'USERPOD_TOKEN_REGISTRY is not set')
    def test_oauth_and_short_lives(self):
        self.pull(f'{cri.TOKEN_REGISTRY}/brief/test/busybox')
        self.pull(f'{cri.TOKEN_REGISTRY}/oauth/test/busybox', username='test', password='secret')
        self.refused(f'{cri.TOKEN_REGISTRY}/oauth/test/busybox', 'refuses the credentials', 'wrong user', unavailable=False,
                     username='test', password='guess')

    @unittest.skipUnless(cri.TOKEN_REGISTRY, 'USERPOD_TOKEN_REGISTRY is not set')
    def test_identity_token(self):
        image = f'{cri.TOKEN_REGISTRY}/oauth/test/busybox'
        # The token server takes each once, and tells the next, which nobody else is told: the first of this server only.
        connection = http.client.HTTPConnection(cri.TOKEN_REGISTRY, timeout=30)
        connection.request('GET', '/stats')
        used = json.loads(connection.getresponse().read()).get('refreshed', 0)
        connection.close()
        self.pull(image, identity_token=f'identity-{used + 1}')
        self.refused(image, 'wrong user, password or identity token', unavailable=False, identity_token='guess')
        self.refused(image, 'refuses the registry token', unavailable=False, registry_token='guess')


class Redirects(Pulls):
    def test_to_a_store(self):
        self.pull(f'127.0.0.1:{port("nginx")}/store/test/busybox')
        told('store.access', lambda line: '/blobs/' in line)
        self.assertEqual([line for line in lines('store.access') if '|-|' not in line], [])
        self.assertNotIn(SECRET, self.journal())

    def test_a_store_has_certificates_of_its_own(self):
        image, host = f'127.0.0.1:{port("nginx")}/stores/test/busybox', f'127.0.0.1:{port("nginxs")}'
        self.refused(image, 'unknown authority', f'certs.d/{host}')
        self.trust(host)
        self.pull(image)

    def test_never_from_https_to_http(self):
        host = f'127.0.0.1:{port("nginxs")}'
        self.trust(host)
        before = len(lines('store.access'))
        self.refused(f'{host}/clear/test/busybox', 'redirects from https to http')
        self.assertEqual(len(lines('store.access')), before)

    def test_without_end(self):
        self.refused(f'127.0.0.1:{port("faults")}/loop/test/busybox', 'redirects more than 10 times')


class Mirrors(Pulls):
    def test_one_that_is_down_and_one_that_serves(self):
        nginx, faulty = f'127.0.0.1:{port("nginx")}', f'127.0.0.1:{port("faults")}'
        self.configure('registries.conf.d/99-userpod-mirrors.conf', '[[registry]]\nlocation = "registry.test"\n' + ''.join(
            f'[[registry.mirror]]\nlocation = "{place}"\n' for place in ('127.0.0.1:1', f'{faulty}/never', f'{nginx}/mirror')))
        time.sleep(0.3)                              # the files are looked at four times a second
        before = len(lines('nginx.access'))
        self.pull('registry.test/test/busybox')
        told('nginx.access', lambda line: '/v2/mirror/test/busybox/blobs/' in line, before)
        self.assertTrue([path for path, *_ in faults('GET') if '/never/' in path])


class Foreign(Pulls):
    def test_layers_from_elsewhere(self):
        """What the registry does not have comes from the URLs of its descriptor, without credentials."""
        layer = Layer().file('foreign', 'foreign\n').bytes()
        data = gzip.compress(layer, 1, mtime=0)
        with LyingRegistry() as registry:
            given = []

            def elsewhere(request):
                given.append(request.headers.get('Authorization'))
                request.send_response(200)
                request.send_header('Content-Length', str(len(data)))
                request.end_headers()
                request.wfile.write(data)
            registry.answers['/elsewhere'] = elsewhere
            place = {'mediaType': DOCKER + 'image.rootfs.foreign.diff.tar.gzip', 'digest': digest_of(data), 'size': len(data)}
            for name, urls in (('foreign', ['ftp://x/', f'http://{registry.address}/missing', f'http://{registry.address}/elsewhere']),
                               ('nowhere', [f'http://{registry.address}/missing?{SECRET}=x'])):
                registry.image(name, [(data, digest_of(layer))], manifest={'layers': [{**place, 'urls': urls}]})
                registry.blobs.pop(digest_of(data), None)
            self.pull(f'{registry.address}/foreign', username='test', password='secret')
            self.assertEqual(given, [None])
            self.refused(f'{registry.address}/nowhere', 'no place that the image names serves the foreign layer', 'status 404')


class Statuses(Pulls):
    def test_of_nginx(self):
        for status, unavailable, word in ((401, False, 'demands credentials'), (403, False, 'denies access'),
                                          (404, False, 'has no blob'), (429, True, 'try again in 3600 s'),
                                          (500, True, 'status 500'), (502, True, 'status 502'), (503, True, 'status 503')):
            with self.subTest(status):
                self.refused(f'127.0.0.1:{port("nginx")}/status-{status}/test/busybox', word, f'nginx says {status}',
                             unavailable=unavailable)

    def test_that_pass(self):
        for status in (408, 429, 500, 502, 503, 504):
            with self.subTest(status):
                self.pull(f'127.0.0.1:{port("faults")}/once-{status}/test/busybox')
        asked = self.blobs()
        self.assertEqual(len(asked), 6 * 2 * 2)      # config and layer, each twice

    def test_rate_limit(self):
        self.refused(f'127.0.0.1:{port("faults")}/limit/test/busybox', 'pull rate limit', 'try again in 3')
        self.assertEqual(len([path for path, *_ in faults('GET') if '/limit/' in path]), 1)


class Faults(Pulls):
    def setUp(self):
        super().setUp()
        self.host = f'127.0.0.1:{port("faults")}'

    @contextlib.contextmanager
    def stall_timeout(self, seconds):
        with running.settings(f'pull-stall-timeout = {seconds}\n'):
            self.connect()
            yield
        self.connect()

    def test_cut(self):
        self.pull(f'{self.host}/cut/test/big')
        spans = [span for _, span in self.blobs() if span]
        self.assertEqual(spans, [f'bytes={n * 3000000}-' for n in range(1, len(spans) + 1)])
        self.assertGreater(len(spans), 4)

    def test_cut_without_ranges(self):
        self.pull(f'{self.host}/cut-whole/test/big')

    def test_cut_and_ranges_that_lie(self):
        self.pull(f'{self.host}/cut-other/test/big')

    def test_hang_up(self):
        self.pull(f'{self.host}/hang-up/test/busybox')
        self.refused(f'{self.host}/never/test/busybox', self.host)

    def test_stall(self):
        with self.stall_timeout(2):
            for fault in ('stall', 'drip'):
                self.pull(f'{self.host}/{fault}/test/busybox')
            self.refused(f'{self.host}/silent/test/busybox', 'no data for 2 s')

    def test_bytes_that_lie(self):
        for fault in ('corrupt', 'short'):
            self.refused(f'{self.host}/{fault}/test/busybox', 'sha256:', unavailable=False)

    def test_cancel(self):
        for fault, part in (('silent', ''), ('stall', '/blobs/')):   # where it hangs
            faults('DELETE')
            call = self.cri.future('PullImage', image={'image': f'{self.host}/{fault}/test/busybox'})
            cri.wait_until(lambda: [path for path, *_ in faults('GET') if f'/{fault}/' in path and part in path], what='the request')
            call.cancel()
            # The default stall time-out is far longer.
            cri.wait_until(lambda: ['gone', None, None] in faults('GET'), timeout=5, what='the end of the connection')

    def test_throttled(self):
        self.pull(f'127.0.0.1:{port("nginx")}/throttled/test/busybox')


class Proxy(Pulls):
    @contextlib.contextmanager
    def proxy(self, user):
        names = ('https_proxy', 'HTTP_PROXY')
        cri.systemctl('set-environment', *(f'{n}=http://{user}@127.0.0.1:{port("proxy")}' for n in names))
        try:
            running.restart_daemon()
            self.connect()
            yield
        finally:
            cri.systemctl('unset-environment', *names)
            running.restart_daemon()
            self.connect()

    def test_proxy(self):
        image = f'registry.test:{port("tls")}/test/busybox'
        self.trust(f'registry.test:{port("tls")}')
        with self.proxy('proxy:secret'):
            self.pull(image)
            self.pull(f'{cri.REGISTRY}/test/busybox')
        told('proxy_log', lambda line: line == f'CONNECT registry.test:{port("tls")} 200')
        self.assertEqual([line for line in lines('proxy_log') if cri.REGISTRY in line], [])   # loopback goes by no proxy
        with self.proxy('proxy:guess'):
            self.refused(image, f'the proxy 127.0.0.1:{port("proxy")} demands other credentials')
        self.assertNotIn('guess', self.journal())


if __name__ == '__main__':
    if cri.SANITIZE:
        cri.skip('what it is about runs sanitized as unit-registries and unit-client')
    if not DIRECTORY or not os.path.exists(f'{DIRECTORY}/nginx_port'):
        cri.skip('USERPOD_REGISTRY_DIR has no servers of tests/testbed/registries')
    running.main()
