#!/usr/bin/python3
"""Registries, manifests, configs and layers that lie: an error that names what lies, nothing left of it, and all goes on."""
import json
import os
import sys
import tarfile

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from lying_registry import LyingRegistry, zeros  # noqa: E402
from registry_images import DOCKER, OCI, Layer, digest_of  # noqa: E402

Code = cri.Code
FINE = Layer().file('fine', 'fine\n').bytes()
A = digest_of(b'a')


def huge(size_field, kind=tarfile.REGTYPE, name='huge'):
    """A header with a size of its own, and nothing behind it."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = size_field
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


def sparse_map(entries):
    """A map of that many holes, which a reader keeps in memory."""
    text = f'{entries}\n'.encode() + b'0\n0\n' * entries
    info = tarfile.TarInfo('GNUSparseFile.1/sparse')
    info.size = len(text) + -len(text) % 512
    info.pax_headers = {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'sparse', 'GNU.sparse.realsize': '10'}
    return info.tobuf(tarfile.PAX_FORMAT) + text + bytes(-len(text) % 512 + 1024)


def sparse(size):
    info = tarfile.TarInfo('GNUSparseFile.1/sparse')
    info.size = 512
    info.pax_headers = {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'sparse', 'GNU.sparse.realsize': str(size)}
    return info.tobuf(tarfile.PAX_FORMAT) + f'1\n{size}\n0\n'.encode().ljust(512, b'\0') + bytes(1024)


class Lies(running.Running):
    def setUp(self):
        super().setUp()
        self.registry = LyingRegistry()
        self.registry.__enter__()
        self.addCleanup(self.registry.__exit__)
        self.before = running.stored()

    def tearDown(self):
        self.assertEqual(running.stored(), self.before)
        ref = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/busybox:2'}).image_ref
        self.cri.RemoveImage(image={'image': ref})

    def pull(self, name):
        return self.cri.PullImage(image={'image': f'{self.registry.address}/{name}'}).image_ref

    def refused(self, name, *words, code=Code.UNKNOWN):
        """The pull fails; the message has the image's name and all words."""
        with self.subTest(name), self.assertRaises(cri.grpc.RpcError) as failed:
            self.cri.RemoveImage(image={'image': self.pull(name)})
        if not hasattr(failed, 'exception'):
            return
        text = failed.exception.details()
        print(f'{name}: {text}')
        with self.subTest(name):
            self.assertEqual(failed.exception.code(), code, text)
            for word in (name, *words):
                self.assertIn(word, text)
            self.assertEqual([i.id for i in self.cri.ListImages().images], [self.image])

    def test_manifests(self):
        r = self.registry
        config = {**r.blob(b'{}'), 'mediaType': OCI + 'config.v1+json'}
        layer = r.blob(FINE)
        image = {'schemaVersion': 2, 'config': config, 'layers': [layer]}
        for name, body, word in (
                ('not-json', b'\xff\xfe', 'not a JSON object'), ('empty', b'', 'not a JSON object'), ('list', [], 'not a JSON object'),
                ('deep', b'[' * 100000, 'nested'), ('deep-object', b'{"a":' * 100000, 'nested'), ('not-utf8', b'{"config":"\xff"}', 'JSON'),
                ('nul', b'{"annotations":{"a":"\\u0000"}}', 'NUL'), ('neither', {'schemaVersion': 2}, 'neither'), ('both', {**image, 'manifests': []}, 'neither'),
                ('schema1', {'schemaVersion': 1, 'fsLayers': []}, 'schema 1'), ('type-lies', {**image, 'mediaType': OCI + 'index.v1+json'}, 'does not fit'),
                ('artifact', {**image, 'layers': [], 'config': {**config, 'mediaType': 'application/vnd.cncf.helm.config.v1+json'}}, 'artifact'),
                ('encrypted', {**image, 'layers': [{**layer, 'mediaType': OCI + 'layer.v1.tar+gzip+encrypted'}]}, 'encrypted'),
                ('501-layers', {**image, 'layers': [layer] * 501}, '501'), ('no-list', {**image, 'layers': {}}, 'layers'),
                ('negative-size', {**image, 'layers': [{**layer, 'size': -1}]}, layer['digest']), ('huge-size', {**image, 'layers': [{**layer, 'size': 1 << 62}]}, layer['digest']),
                ('size-no-number', {**image, 'layers': [{**layer, 'size': '5'}]}, layer['digest']), ('size-missing', {**image, 'config': {'digest': A}}, A),
                ('sha512', {**image, 'layers': [{**layer, 'digest': 'sha512:' + 'a' * 128}]}, 'sha512'), ('md5', {**image, 'config': {**config, 'digest': 'md5:00'}}, 'md5'),
                ('digest-path', {**image, 'layers': [{**layer, 'digest': 'sha256:../../../x'}]}, 'sha256:../../../x'),
                ('annotations', {**image, 'annotations': {str(i): 'x' * 1000 for i in range(300)}}, 'annotations'),
                ('config-too-large', {**image, 'config': {**config, 'size': 9 << 20}}, 'image config'),
                ('no-platform', {'manifests': [{**layer, 'platform': {'os': 'plan9\n' * 1000, 'architecture': 'x' * 10000}}] * 100}, 'plan9')):
            r.document(name, body, kind='application/json')
            self.refused(name, word, code=Code.UNIMPLEMENTED if name == 'encrypted' else Code.UNKNOWN)
        r.document('100000-layers', {**image, 'layers': [layer] * 100000})
        self.refused('100000-layers', '4194304', code=Code.RESOURCE_EXHAUSTED)
        # A list of lists, three deep.
        entry = {'mediaType': OCI + 'index.v1+json', 'size': 1, 'platform': {'os': 'linux', 'architecture': 'amd64'}}
        for _ in range(3):
            entry = {**entry, 'digest': r.document('lists', {'manifests': [entry if 'digest' in entry else {**entry, 'digest': A}]}, OCI + 'index.v1+json')}
        self.refused('lists', 'list')

    def test_servers(self):
        r = self.registry
        digest = r.image('cut', [FINE])
        layer = next(d for d, data in r.blobs.items() if data[:2] == b'\x1f\x8b')

        def answer(status, body=b'', **headers):
            def send(handler):
                handler.send_response(status)
                for key, value in {'Content-Length': str(len(body)), **headers}.items():
                    handler.send_header(key.replace('_', '-'), value)
                handler.end_headers()
                handler.wfile.write(body)
                handler.close_connection = True
            return send
        for name, word, how in (
                ('forbidden', 'denies', answer(403)), ('gone', 'no latest', answer(404)), ('teapot', '418', answer(418, b'{"errors":[{"message":"\x1b[31m' + b'x' * 5000 + b'"}]}')),
                ('to-file', '', answer(302, Location='file:///etc/passwd')), ('to-itself', '', answer(302, Location='/v2/to-itself/manifests/latest')),
                ('realm', 'not https', answer(401, WWW_Authenticate='Bearer realm="file:///etc/passwd"')), ('basic', 'credentials', answer(401, WWW_Authenticate='Basic')),
                ('wrong-header', 'not ' + A, answer(200, b'{}', Docker_Content_Digest=A))):
            r.answers[f'/v2/{name}/manifests/latest'] = answer_ = how
            self.assertTrue(answer_)
            self.refused(name, word)
        # A body that ends early, each time; another one that does not end.
        r.answers[f'/v2/cut/blobs/{layer}'] = answer(200, r.blobs[layer][:-5], Content_Length=str(len(r.blobs[layer])))
        self.refused('cut', r.address)
        r.answers[f'/v2/cut/blobs/{layer}'] = answer(200, r.blobs[layer] + b'more', Content_Length=str(len(r.blobs[layer]) + 4))
        self.refused('cut', layer)
        self.assertTrue(digest)

    def test_configs(self):
        r = self.registry
        for name, config, word in (
                ('config-not-json', b'\xff', 'image config'), ('config-deep', b'{"a":' * 100, 'nested'), ('no-rootfs', b'{}', 'rootfs'),
                ('config-nul', b'{"rootfs":{"diff_ids":[]},"config":{"Env":["A=\\u0000"]}}', 'NUL'), ('config-not-utf8', b'{"rootfs":{},"config":{"Env":["A=\xff"]}}', 'image config'),
                ('diffid-sha512', {'rootfs': {'diff_ids': ['sha512:' + 'a' * 128]}}, 'sha512'), ('diffid-number', {'rootfs': {'diff_ids': [1]}}, 'diff_ids'),
                ('cmd-number', {'rootfs': {'diff_ids': []}, 'config': {'Cmd': [1]}}, 'Cmd'), ('windows', {'os': 'windows', 'rootfs': {'diff_ids': [A]}}, 'windows'),
                ('no-diffids', {'rootfs': {'diff_ids': []}}, '0 DiffIDs')):
            data = config if isinstance(config, bytes) else json.dumps(config).encode()
            r.image(name, [FINE], manifest={'config': {**r.blob(data), 'mediaType': OCI + 'config.v1+json'}})
            self.refused(name, word)
        r.image('config-digest', [FINE], manifest={'config': {**r.blob(b'{}', A), 'mediaType': DOCKER + 'container.image.v1+json'}})
        self.refused('config-digest', A)
        for size in (1, 1000):
            r.image('config-size', [FINE], manifest={'config': {**r.blob(b'{"rootfs":{}}'), 'size': size, 'mediaType': OCI + 'config.v1+json'}})
            self.refused('config-size', digest_of(b'{"rootfs":{}}'))
        # A history is nobody's business here.
        r.image('history', [FINE], config={'history': [{'empty_layer': False}] * 1000 + [17]})
        self.cri.RemoveImage(image={'image': self.pull('history')})

    def test_layers(self):
        r = self.registry
        for size in (5, 100000):
            data = r.blob(FINE)
            r.image('layer-size', [FINE], manifest={'layers': [{**data, 'size': size}]})
            self.refused('layer-size', data['digest'])
        for name, layer, *words in (
                ('negative', huge(b'\xff' * 12), 'layer sha256:'), ('exabyte', huge(b'\x80\0\0\0\x10' + b'\0' * 7), '/huge', 'image-size-limit'),
                ('pax-huge', huge(b'%011o\0' % (3 << 20), b'x'), 'layer sha256:'), ('long-name-huge', huge(b'%011o\0' % (3 << 20), b'L'), 'layer sha256:'),
                ('sparse', sparse((1 << 63) - 1), '/sparse', 'image-size-limit'),
                ('sparse-map', sparse_map(3000000), 'headers'),
                ('steers-overlay', Layer().file('f', 'x', xattrs={'user.overlay.redirect': '/etc'}).bytes(), '/f', 'user.overlay.redirect'),
                ('marks-root', Layer().dir('./', xattrs={'user.userpod.root': 'y'}).bytes(), 'user.userpod.root'),
                ('bad-capability', Layer().file('f', 'x', xattrs={'security.capability': 'x'}).bytes(), '/f', 'security.capability'),
                ('name-of-300', Layer().file('n' * 300, 'x').bytes(), '/nnn'), ('path-of-5000', Layer().file('d/' * 2500 + 'f', 'x').bytes(), '4096'),
                ('link-of-5000', Layer().symlink('l', 'x' * 5000).bytes(), '/l'), ('under-a-file', Layer().file('f', 'x').file('f/g', 'x').bytes(), '/f'),
                ('loop', Layer().symlink('a', 'b').symlink('b', 'a').file('a/f', 'x').bytes(), '/a'), ('link-to-nothing', Layer().hardlink('a', 'gone').bytes(), '/gone'),
                ('link-to-directory', Layer().dir('d').hardlink('a', 'd').bytes(), '/a'), ('no-name', huge(b'%011o\0' % 0, name='\0') + bytes(1024), 'name')):
            r.image(name, [layer])
            self.refused(name, *words, code=Code.RESOURCE_EXHAUSTED if 'image-size-limit' in words else Code.UNKNOWN)
        for name, owner in (('uid', {'uid': 3000000000}), ('gid', {'gid': 3000000000}), ('uid-huge', {'uid': 1 << 40})):
            r.image(name, [Layer().file('owned', 'x', **owner).bytes()])
            self.refused(name, '/owned', '/etc/subuid', code=Code.FAILED_PRECONDITION)

    def test_bombs(self):
        r = self.registry
        info = tarfile.TarInfo('zeros')
        info.size = 512 << 20
        packed, diff_id = zeros(info.tobuf(), info.size, bytes(1024))
        r.image('zeros', [(packed, diff_id)])
        self.refused('zeros', 'image-ratio-limit', 'layer sha256:', code=Code.RESOURCE_EXHAUSTED)
        # Much of everything that is still honest: unpacked, and taken away again.
        many = Layer().file('f', 'x')
        for i in range(20000):
            many.hardlink(f'l{i}', 'f')
        deep = Layer()
        for i in range(3):
            deep.file(f'{i}/' + 'd/' * 2000 + 'f', 'x')
        odd = Layer().file('line\nbreak', 'x').file('esc\x1b[31m', 'x').file('bytes\udcff', 'x').file('-rf', 'x').file(' ', 'x')
        for name, layer in (('links', many), ('deep', deep), ('odd-names', odd), ('attributes', Layer().file('f', 'x', xattrs={f'user.{i}': 'v' for i in range(50)}))):
            with self.subTest(name):
                r.image(name, [layer.bytes()])
                self.cri.RemoveImage(image={'image': self.pull(name)})
        r.image('large-attributes', [Layer().file('f', 'x', xattrs={f'user.{i}': 'v' * 60000 for i in range(10)}).bytes()])
        try:
            self.cri.RemoveImage(image={'image': self.pull('large-attributes')})
        except cri.grpc.RpcError as e:
            self.assertIn('/f', e.details())
            self.assertIn('user.', e.details())

    def test_users_and_programs(self):
        r = self.registry
        pod = self.pod()
        base = Layer().dir('etc').file('etc/passwd', 'far:x:3000000000:3000000000::/:/bin/sh\n').bytes()
        for name, settings, code, *words in (
                ('user-far', {'User': '3000000000'}, Code.FAILED_PRECONDITION, '3000000000', '/etc/subuid'),
                ('group-far', {'User': '0:3000000000'}, Code.FAILED_PRECONDITION, '3000000000', '/etc/subgid'),
                ('user-by-name', {'User': 'far'}, Code.FAILED_PRECONDITION, '3000000000', '/etc/subuid'),
                ('user-absurd', {'User': 'x' * 1000000}, Code.INVALID_ARGUMENT, 'user of image', '/etc/passwd'),
                ('user-colons', {'User': ':::'}, Code.INVALID_ARGUMENT, 'user of image'), ('user-minus', {'User': '-1'}, Code.INVALID_ARGUMENT, '-1'),
                ('no-program', {'Cmd': None}, Code.INVALID_ARGUMENT, 'command'), ('empty-program', {'Cmd': ['']}, Code.INVALID_ARGUMENT, 'command'),
                ('long-program', {'Entrypoint': ['x' * 3000000]}, Code.UNKNOWN, 'long-program'), ('directory', {'WorkingDir': '/etc/passwd'}, Code.UNKNOWN, 'cwd')):
            with self.subTest(name):
                r.image(name, [base], **settings)
                ref = self.pull(name)
                try:
                    with self.assertRaises(cri.grpc.RpcError) as failed:
                        made = self.cri.CreateContainer(pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
                            'metadata': {'name': name}, 'image': {'image': ref}, 'log_path': 'x.log', 'linux': {}}).container_id
                        try:
                            self.cri.StartContainer(container_id=made)
                        finally:
                            self.cri.RemoveContainer(container_id=made)
                    print(f'{name}: {failed.exception.details()[:300]}')
                    if code != Code.UNKNOWN:
                        self.assertEqual(failed.exception.code(), code, failed.exception.details())
                        for word in (name, *words):
                            self.assertIn(word, failed.exception.details())
                    self.assertEqual(len(self.cri.ListContainers().containers), 0)
                finally:
                    self.cri.RemoveImage(image={'image': ref})
        # The same layer many times, as images have it that docker made long ago.
        with open('/bin/busybox', 'rb') as f:
            box = Layer().dir('bin').file('bin/sh', f.read(), 0o755).bytes()
        empty = Layer().bytes()
        r.image('same-layers', [box, empty, base, empty, base])
        container = self.container(pod, 'echo runs', 'same', image={'image': self.pull('same-layers')})
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name='same'), ['runs'])
        self.cri.RemoveContainer(container_id=container)
        self.cri.RemoveImage(image={'image': f'{r.address}/same-layers'})

    def test_users_of_requests(self):
        pod = self.pod()
        far = 3000000000
        for field, security in (
                ('user', {'run_as_user': {'value': far}}), ('group', {'run_as_user': {'value': 0}, 'run_as_group': {'value': far}}),
                ('group', {'supplemental_groups': [1, far]})):
            with self.subTest(field=str(security)), self.assertRaises(cri.grpc.RpcError) as failed:
                self.container(pod, 'true', 'far', linux={'security_context': security})
            self.assertEqual(failed.exception.code(), Code.FAILED_PRECONDITION, failed.exception.details())
            for word in ('far', field, str(far), '/etc/sub'):
                self.assertIn(word, failed.exception.details())
        for key, value, *words in (('BYTES', b'a\xffb', 'BYTES', 'UTF-8', 'odd'), ('A=B', b'', 'envs.key'), ('', b'', 'envs.key'), ('N\0', b'', 'envs.key'), ('N', b'\0', 'envs[N]'),
                                   ('K' * 200000, b'', 'envs.key'), ('LONG', b'x' * 200000, 'envs[LONG]')):
            with self.subTest(key=key[:10]), self.assertRaises(cri.grpc.RpcError) as failed:
                self.container(pod, 'true', 'odd', envs=[{'key': key, 'value': value}])
            self.assertEqual(failed.exception.code(), Code.INVALID_ARGUMENT, failed.exception.details())
            for word in words:
                self.assertIn(word, failed.exception.details())
        self.assertEqual(len(self.cri.ListContainers().containers), 0)
        self.assertEqual(running.enter('ls', f'{cri.DATA_DIR}/containers'), '')
        container = self.container(pod, 'echo "$TEXT"', 'good', envs=[{'key': 'TEXT', 'value': 'grün'.encode()}])
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(name='good'), ['grün'])
        self.cri.RemoveContainer(container_id=container)


if __name__ == '__main__':
    running.main()
