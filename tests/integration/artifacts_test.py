#!/usr/bin/python3
"""OCI artifacts: files without a program to run.  Pulled, listed, kept over a restart, mounted as an image volume, removed."""
import hashlib
import os
import sys

import grpc

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from counting_proxy import CountingProxy  # noqa: E402
from registry_images import ARTIFACT_FILES, digest_of  # noqa: E402

NAME = 'artifacts/files'
FILES = {title or digest_of(data): data for title, data in ARTIFACT_FILES}
BYTES = sum(len(data) for data in FILES.values())
SERVICE = 'trap "exit 0" TERM; echo ready; while :; do usleep 20000; done'


class Artifacts(running.Running):
    def setUp(self):
        super().setUp()
        self.pod()                                   # the first one of a node makes directories
        self.remove_pods()
        self.configs.clear()
        self.drop_layers()
        self.before = running.stored()
        self.proxy = self.enterContext(CountingProxy(cri.REGISTRY))
        self.name = f'{self.proxy.address}/{NAME}:latest'
        self.addCleanup(self.remove)
        self.ref = self.pull()

    def pull(self):
        return self.cri.PullImage(image={'image': self.name}).image_ref

    def remove(self):
        self.connect()
        self.remove_pods()
        self.configs.clear()
        self.cri.RemoveImage(image={'image': self.name})

    def read(self, container, path):
        """The file's bytes, as the container reads them."""
        got = self.cri.ExecSync(container_id=container, cmd=['cat', path])
        self.assertEqual((got.exit_code, got.stderr), (0, b''), path)
        return got.stdout

    def check_shown(self):
        image = self.cri.ImageStatus(image={'image': self.name}).image
        self.assertEqual(image.id, self.ref)
        self.assertEqual(list(image.repo_tags), [self.name])
        # It has no config: its id is the manifest's digest.
        self.assertEqual(list(image.repo_digests), [f'{self.proxy.address}/{NAME}@{self.ref}'])
        self.assertGreaterEqual(image.size, BYTES)
        self.assertLess(image.size, 2 * BYTES)
        self.assertEqual([i for i in self.cri.ListImages().images if i.id == self.ref], [image])
        return image

    def test_kept(self):
        """Shown as an image is; not fetched again, before a restart nor after it."""
        self.assertEqual(self.proxy.blobs(), {digest_of(data): 1 for data in FILES.values()})
        before = self.check_shown()
        self.proxy.clear()
        self.assertEqual(self.pull(), self.ref)
        self.assertEqual(self.proxy.blobs(), {})
        running.restart_daemon()
        self.connect()
        self.assertEqual(self.check_shown(), before)
        self.assertEqual(self.pull(), self.ref)
        self.assertEqual(self.proxy.blobs(), {})
        self.cri.RemoveImage(image={'image': self.ref})
        self.assertFalse(self.cri.ImageStatus(image={'image': self.name}).HasField('image'))
        self.assertEqual(running.stored(), self.before)

    def test_not_run(self):
        pod = self.pod()
        for image in self.name, self.ref:
            with self.assertRaises(grpc.RpcError) as caught:
                self.container(pod, 'true', image={'image': image})
            self.assertEqual(caught.exception.code(), cri.Code.INVALID_ARGUMENT, caught.exception.details())
            self.assertIn('artifact', caught.exception.details())
            self.assertIn('image volume', caught.exception.details())
        self.assertEqual(list(self.cri.ListContainers().containers), [])

    def test_mounted(self):
        pod = self.pod()

        def mount(path, image, part=''):
            return {'container_path': path, 'readonly': True, 'image': {'image': image}, 'image_sub_path': part}
        container = self.container(pod, SERVICE, mounts=[mount('/all', self.name), mount('/part', self.ref, 'sub/dir'),
                                                         mount('/one', self.ref, 'config.json')])
        self.wait_for_line('ready')
        for title, data in FILES.items():
            self.assertEqual(hashlib.sha256(self.read(container, f'/all/{title}')).digest(), hashlib.sha256(data).digest(), title)
        self.assertEqual(self.read(container, '/part/data.bin'), FILES['sub/dir/data.bin'])
        self.assertEqual(self.read(container, '/one'), FILES['config.json'])
        tree = self.cri.ExecSync(container_id=container, cmd=['sh', '-c', 'cd /all && find . -mindepth 1 | sort']).stdout.decode().split()
        self.assertEqual(tree, sorted(['./sub', './sub/dir', *(f'./{title}' for title in FILES)]))
        for path in '/all/new', '/all/config.json', '/part/new', '/one':
            got = self.cri.ExecSync(container_id=container, cmd=['sh', '-c', f'echo x > {path}'])
            self.assertNotEqual(got.exit_code, 0, path)
            self.assertIn(b'Read-only file system', got.stderr)
        with self.assertRaises(grpc.RpcError) as caught:
            self.container(pod, 'true', 'refused', start=False, mounts=[mount('/v', self.ref, 'sub/none')])
        self.assertIn('is not in it', caught.exception.details())
        # In use; over a restart too.
        for _ in range(2):
            for name in self.name, self.ref:
                with self.assertRaises(grpc.RpcError) as caught:
                    self.cri.RemoveImage(image={'image': name})
                self.assertEqual(caught.exception.code(), cri.Code.FAILED_PRECONDITION)
                self.assertIn(container, caught.exception.details())
            running.restart_daemon()
            self.connect()
            self.assertEqual(self.read(container, '/part/data.bin'), FILES['sub/dir/data.bin'])
        self.remove()
        self.assertFalse(self.cri.ImageStatus(image={'image': self.ref}).HasField('image'))
        self.drop_layers()
        self.assertEqual(running.stored(), self.before)


if __name__ == '__main__':
    running.main()
