#!/usr/bin/python3
"""registries.conf, auth.json and credential helpers of the user, as the daemon follows them while it runs."""
import base64
import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from lying_registry import LyingRegistry  # noqa: E402
from registry_images import Layer  # noqa: E402

Code = cri.Code
CONTAINERS = os.path.dirname(running.CONFIG_DIR) + '/containers'
DROP_IN = f'{CONTAINERS}/registries.conf.d/zz-userpod-test.conf'
AUTH_FILE = f'{cri.RUNTIME_DIR}/containers/auth.json'
DEAD, DEAD_TOO = '127.0.0.1:1', '127.0.0.1:2'      # nobody listens there
LOOK = 0.3                                         # seconds: the daemon looks at the files four times in one


@contextlib.contextmanager
def written(path, text, mode=0o600):
    """The file says so within; directories that were not there go with it."""
    made, parent = [], os.path.dirname(path)
    while not os.path.isdir(parent):
        made.append(parent)
        parent = os.path.dirname(parent)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)
    os.chmod(path, mode)
    try:
        yield
    finally:
        os.unlink(path)
        for directory in made:
            os.rmdir(directory)


@contextlib.contextmanager
def registries(text):
    """A drop-in of the user's says so, and the next pull knows it."""
    with written(DROP_IN, text):
        time.sleep(LOOK)
        yield
    time.sleep(LOOK)


def auths(**entries):
    return json.dumps({'auths': {host: {'auth': base64.b64encode(pair.encode()).decode()} for host, pair in entries.items()}})


class Registries(running.Running):
    def pulled(self, name, image='test/busybox:2'):
        """Pulls it; its names, of which the image is rid of afterwards.  The bytes are those of `image` of the registry."""
        ref = self.cri.PullImage(image={'image': name}).image_ref
        names = self.cri.ImageStatus(image={'image': name}).image
        self.assertEqual(names.id, ref)
        self.cri.RemoveImage(image={'image': ref})
        again = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/{image}'}).image_ref
        self.cri.RemoveImage(image={'image': again})
        self.assertEqual(again, ref)
        return list(names.repo_tags)

    def refused(self, name, *words):
        with self.assertRaises(cri.grpc.RpcError) as failed:
            self.cri.RemoveImage(image={'image': self.cri.PullImage(image={'image': name}).image_ref})
        text = failed.exception.details()
        for word in words:
            self.assertIn(word, text)
        return text

    def said(self, since, *words):
        """The lines of the daemon in the journal that have all words."""
        lines = cri.run('journalctl', '--user', '-u', running.DAEMON, '--since', f'@{since:.3f}', '-o', 'cat').split('\n')
        return [line for line in lines if all(word in line for word in words)]

    def doctor(self):
        return cri.run(f'{running.PREFIX}/bin/userpodctl', 'doctor', check=False)

    def test_mirrors_first(self):
        mirror = f'[[registry.mirror]]\nlocation = "{DEAD}/m"\n[[registry.mirror]]\nlocation = "{cri.REGISTRY}/test"\n'
        with registries(f'[[registry]]\nlocation = "registry.invalid/t"\n{mirror}'):
            # By the second mirror; the registry itself, which does not exist, is not asked.
            self.assertEqual(self.pulled('registry.invalid/t/busybox:2'), ['registry.invalid/t/busybox:2'])
        with registries(f'[[registry]]\nlocation = "{DEAD_TOO}/t"\n{mirror}'):
            # Each failure with its reason.
            self.refused(f'{DEAD_TOO}/t/nothing:2', f'{DEAD_TOO}/t/nothing:2', f'{DEAD}: ', f'{DEAD_TOO}: ', f'{cri.REGISTRY}/test/nothing: ')
        with registries(f'[[registry]]\nlocation = "{cri.REGISTRY}/test"\n[[registry.mirror]]\nlocation = "{DEAD}"\n'):
            self.assertEqual(self.pulled(f'{cri.REGISTRY}/test/busybox:2'), [f'{cri.REGISTRY}/test/busybox:2'])

    def test_mirrors_by_digest_or_tag(self):
        ref = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/busybox:2'}).image_ref
        digest = self.cri.ImageStatus(image={'image': ref}).image.repo_digests[0].split('@')[1]
        self.cri.RemoveImage(image={'image': ref})
        for use, name, other in (('digest-only', f'@{digest}', ':2'), ('tag-only', ':2', f'@{digest}')):
            with self.subTest(use), registries(f'[[registry]]\nlocation = "{DEAD}/t"\n[[registry.mirror]]\nlocation = "{cri.REGISTRY}/test"\n'
                                               f'pull-from-mirror = "{use}"\n'):
                self.cri.RemoveImage(image={'image': self.cri.PullImage(image={'image': f'{DEAD}/t/busybox{name}'}).image_ref})
                self.assertNotIn(cri.REGISTRY, self.refused(f'{DEAD}/t/busybox{other}', DEAD))

    def test_rewriting(self):
        with registries(f'[[registry]]\nprefix = "docker.io/library"\nlocation = "{cri.REGISTRY}/test"\n'
                        f'[[registry]]\nprefix = "*.example.invalid"\nlocation = "{cri.REGISTRY}"\n'):
            self.assertEqual(self.pulled('busybox:2'), ['docker.io/library/busybox:2'])
            self.assertEqual(self.pulled('any.example.invalid/test/busybox:2'), ['any.example.invalid/test/busybox:2'])

    def test_short_names(self):
        search = f'unqualified-search-registries = ["{DEAD}", "{cri.REGISTRY}"]\n'
        for mode in ('', 'short-name-mode = "permissive"\n', 'short-name-mode = "disabled"\n'):
            with self.subTest(mode), registries(search + mode):
                self.assertEqual(self.pulled('test/busybox:2'), [f'{cri.REGISTRY}/test/busybox:2'])
                self.refused('test/nothing', DEAD, cri.REGISTRY)
        with registries(search + 'short-name-mode = "enforcing"\n[aliases]\nbb = "' + cri.REGISTRY + '/test/busybox"\n'):
            self.refused('test/busybox:2', 'short name test/busybox', f'{DEAD}, {cri.REGISTRY}', 'enforcing', DROP_IN)
            self.assertEqual(self.pulled('bb:2'), [f'{cri.REGISTRY}/test/busybox:2'])
            # What may not be pulled can be found.
            self.assertEqual(self.cri.ImageStatus(image={'image': 'test/busybox:1'}).image.id, self.image)
            self.assertEqual(self.cri.ImageStatus(image={'image': 'bb:1'}).image.id, self.image)
        with registries('unqualified-search-registries = []\n'):
            self.refused('test/busybox:2', 'short name test/busybox', DROP_IN)

    def test_blocked(self):
        with registries(f'[[registry]]\nlocation = "{cri.REGISTRY}/test"\nblocked = true\n'):
            self.refused(f'{cri.REGISTRY}/test/busybox:2', 'blocked', f'{DROP_IN}:1')
            # What is there stays usable.
            self.assertEqual(self.cri.ImageStatus(image={'image': running.IMAGE}).image.id, self.image)

    def test_a_change_is_followed_and_a_broken_file_is_not(self):
        pid = running.main_pid()
        since = time.time()
        with registries(f'[aliases]\nbb = "{cri.REGISTRY}/test/busybox"\n'):
            self.assertEqual(self.pulled('bb:2'), [f'{cri.REGISTRY}/test/busybox:2'])
            with open(DROP_IN, 'w', encoding='utf-8') as f:
                f.write(f'\n[aliases]\nbb = "{cri.REGISTRY}/test/busybox:1"\n')
            time.sleep(LOOK)
            self.assertEqual(self.pulled('bb:2'), [f'{cri.REGISTRY}/test/busybox:2'])
            told = cri.wait_until(lambda: self.said(since, f'{DROP_IN}:3: bb: '), what='the error in the journal')
            self.assertEqual(len(told), 1)
            time.sleep(LOOK)
            self.pulled('bb:2')
            self.assertEqual(self.said(since, f'{DROP_IN}:3: bb: '), told)     # once
            with open(DROP_IN, 'w', encoding='utf-8') as f:
                f.write(f'short-name-mod = "disabled"\n[aliases]\nbb = "{cri.REGISTRY}/test/layers"\n')
            time.sleep(LOOK)
            self.assertEqual(self.pulled('bb', 'test/layers'), [f'{cri.REGISTRY}/test/layers:latest'])
            cri.wait_until(lambda: self.said(since, f'{DROP_IN}:1: short-name-mod: ', 'short-name-mode'), what='the warning in the journal')
        self.assertEqual(running.main_pid(), pid)

    def test_broken_from_the_start(self):
        with written(DROP_IN, 'unqualified-search-registries = "docker.io"\n'):
            running.restart_daemon()
            self.connect()
            self.refused(f'{cri.REGISTRY}/test/busybox:2', f'{DROP_IN}:1: unqualified-search-registries: must be a list')
            self.assertRegex(self.doctor(), rf'error +registries +{DROP_IN}:1: unqualified-search-registries: ')
            with open(DROP_IN, 'w', encoding='utf-8') as f:
                f.write('unqualified-search-registry = ["docker.io"]')
            time.sleep(LOOK)
            self.pulled(f'{cri.REGISTRY}/test/busybox:2')
            self.assertRegex(self.doctor(), rf'warning +registries .*\n.*{DROP_IN}:1: unqualified-search-registry: .*unqualified-search-registries')
        time.sleep(LOOK)


class Credentials(running.Running):
    """Against the registry that demands tokens: private/ is for user test, password secret."""

    def setUp(self):
        super().setUp()
        if not cri.TOKEN_REGISTRY:
            self.skipTest('USERPOD_TOKEN_REGISTRY is not set')
        if os.path.exists(AUTH_FILE):
            self.skipTest(f'{AUTH_FILE} is the user\'s own')
        self.name = f'{cri.TOKEN_REGISTRY}/private/test/busybox:1'

    def pull(self):
        """The error, or nothing."""
        try:
            self.cri.RemoveImage(image={'image': self.cri.PullImage(image={'image': self.name}).image_ref})
            return ''
        except cri.grpc.RpcError as e:
            self.assertNotIn('secret', e.details())
            return e.details()

    def test_auth_file(self):
        self.assertIn(self.name, self.pull())
        with written(AUTH_FILE, auths(**{cri.TOKEN_REGISTRY: 'test:wrong', f'{cri.TOKEN_REGISTRY}/private': 'test:secret'})):
            self.assertEqual(self.pull(), '')
        with written(AUTH_FILE, auths(**{cri.TOKEN_REGISTRY: 'test:secret', f'{cri.TOKEN_REGISTRY}/private/test/busybox': 'test:wrong'})):
            self.assertIn(self.name, self.pull())
        with written(AUTH_FILE, '{"auths": {"' + cri.TOKEN_REGISTRY + '": {"auth": "secret'):
            self.assertIn(f'{AUTH_FILE}:1: is not JSON', self.pull())
        with written(AUTH_FILE, auths(**{cri.TOKEN_REGISTRY: 'test:secret'}), 0o602):
            self.assertIn(f'{AUTH_FILE}: everybody may write it', self.pull())
        # A mirror of a name that has none of its own.
        with written(AUTH_FILE, auths(**{cri.TOKEN_REGISTRY: 'test:secret'})), \
                registries(f'[[registry]]\nlocation = "{DEAD}"\n[[registry.mirror]]\nlocation = "{cri.TOKEN_REGISTRY}/private"\n'):
            self.name = f'{DEAD}/test/busybox:1'
            self.assertEqual(self.pull(), '')

    def test_credential_helper(self):
        programs = tempfile.mkdtemp(prefix='userpod-test-helpers-', dir='/var/tmp')
        self.addCleanup(shutil.rmtree, programs)
        helper = f'{programs}/docker-credential-userpod-test'

        def says(script):
            with open(helper, 'w', encoding='utf-8') as f:
                f.write(f'#!/bin/sh\nread -r server\necho "$1 $server" >> {programs}/asked\n{script}\n')
            os.chmod(helper, stat.S_IRWXU)
        path = dict(line.split('=', 1) for line in cri.systemctl('show-environment').split('\n') if '=' in line).get('PATH', '/usr/bin:/bin')
        cri.systemctl('set-environment', f'PATH={programs}:{path}')
        self.addCleanup(running.restart_daemon)
        self.addCleanup(cri.systemctl, 'set-environment', f'PATH={path}')
        running.restart_daemon()
        self.connect()
        with written(AUTH_FILE, json.dumps({'credHelpers': {cri.TOKEN_REGISTRY: 'userpod-test'}})):
            self.assertIn('docker-credential-userpod-test is not in', self.pull())
            says('''echo '{"ServerURL": "", "Username": "test", "Secret": "secret"}\'''')
            self.assertEqual(self.pull(), '')
            with open(f'{programs}/asked', encoding='utf-8') as f:
                self.assertEqual(set(f.read().split('\n')) - {''}, {f'get {cri.TOKEN_REGISTRY}'})
            says("echo 'credentials not found in native keychain'; exit 1")
            self.assertIn(self.name, self.pull())
            says("echo 'the keyring is locked'; exit 1")
            self.assertIn('docker-credential-userpod-test', self.pull())
            self.assertIn('the keyring is locked', self.pull())
        says('''echo '{"ServerURL": "", "Username": "test", "Secret": "secret"}\'''')
        with registries('credential-helpers = ["containers-auth.json", "userpod-test"]\n'):
            self.assertEqual(self.pull(), '')


class GivenCredentials(running.Running):
    """Those of the CRI's PullImage: whom they are shown."""

    USER = {'username': 'user', 'password': 'the-password'}
    BASIC = 'Basic ' + base64.b64encode(b'user:the-password').decode()

    def setUp(self):
        super().setUp()
        self.registries = [self.enterContext(LyingRegistry()) for _ in range(2)]
        self.given = [[], []]                        # of each registry: the Authorization of every request
        for registry, given in zip(self.registries, self.given):
            registry.image('app', [Layer().file('app', registry.address).bytes()])
            for path in [f'/v2/app/manifests/{tag}' for _, tag in registry.manifests] + [f'/v2/app/blobs/{d}' for d in registry.blobs]:
                registry.answers[path] = lambda request, r=registry, g=given: self.challenge(request, r, g)

    def challenge(self, request, registry, given):
        """No answer without a password; any will do."""
        given.append(request.headers.get('Authorization'))
        name = request.path.rpartition('/')[2]
        if not given[-1]:
            status, kind, data = 401, 'text/plain', b''
        elif '/manifests/' in request.path:
            status, (kind, data) = 200, registry.manifests['app', name]
        else:
            status, kind, data = 200, 'application/octet-stream', registry.blobs[name]
        request.send_response(status)
        request.send_header('Content-Type', kind)
        request.send_header('Content-Length', str(len(data)))
        if status == 401:
            request.send_header('WWW-Authenticate', 'Basic realm="test"')
        request.end_headers()
        request.wfile.write(data)

    def searched(self, count=2):
        return registries(f'unqualified-search-registries = {json.dumps([r.address for r in self.registries[:count]])}\n')

    def pull(self, name='app', **auth):
        ref = self.cri.PullImage(image={'image': name}, auth=auth).image_ref
        tags = list(self.cri.ImageStatus(image={'image': ref}).image.repo_tags)
        self.cri.RemoveImage(image={'image': ref})
        return tags

    def test_of_a_short_name(self):
        """Nobody knows whose they are: a client that means docker.io must not show its password to whoever is searched, but
        to the server that it names."""
        second = self.registries[1].address
        with self.searched():
            with self.assertRaises(cri.grpc.RpcError) as failed:
                self.pull(**self.USER)
            print(failed.exception.details())
            self.assertNotIn('the-password', failed.exception.details())
            self.assertEqual([given for given in sum(self.given, []) if given], [])
            self.given[0].clear()
            self.given[1].clear()
            for server in second, f'http://{second}', f'HTTP://{second}/v2/':
                with self.subTest(server):
                    self.assertEqual(self.pull(**self.USER, server_address=server), [f'{second}/app:latest'])
                    self.assertEqual([given for given in self.given[0] if given], [])
                    self.assertEqual({given for given in self.given[1] if given}, {self.BASIC})
                    self.assertTrue(self.given[0], 'the first one is asked too')
                    for given in self.given:
                        given.clear()

    def test_of_a_short_name_with_one_meaning(self):
        with self.searched(1):
            self.assertEqual(self.pull(**self.USER), [f'{self.registries[0].address}/app:latest'])
            self.assertEqual({given for given in self.given[0] if given}, {self.BASIC})

    def test_of_another_server(self):
        """The name is full, and the credentials are for somebody else."""
        first, second = (registry.address for registry in self.registries)
        with self.assertRaises(cri.grpc.RpcError):
            self.pull(f'{first}/app', **self.USER, server_address=second)
        self.assertTrue(self.given[0])
        self.assertEqual([given for given in sum(self.given, []) if given], [])

    def test_written_in_capitals(self):
        """Names of hosts are the same in either."""
        port = self.registries[0].address.rpartition(':')[2]
        self.assertEqual(self.pull(f'localhost:{port}/app', **self.USER, server_address=f'http://LocalHost:{port}'),
                         [f'localhost:{port}/app:latest'])


if __name__ == '__main__':
    if cri.SANITIZE:
        cri.skip('what it is about runs sanitized as unit-registries and unit-client')
    running.main()
