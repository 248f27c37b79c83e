#!/usr/bin/python3
"""Images in every format, made by skopeo; owners beyond the subordinate range; layers that several images share."""
import os
import sys
import time

import grpc

import cri
import running
import unpack_test

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from counting_proxy import CountingProxy  # noqa: E402

OUTSIDE = '1185200044'


class Formats(unpack_test.Looking):
    def setUp(self):
        super().setUp()
        self.before = running.stored()
        self.addCleanup(self.remove_others)

    def remove_others(self):
        """What a test that failed has left."""
        self.remove_pods()
        for image in self.cri.ListImages().images:
            if image.id != self.image:
                self.cri.RemoveImage(image={'image': image.id})

    def tearDown(self):
        self.remove_pods()
        self.configs.clear()
        self.assertEqual(running.stored(), self.before)

    def remove(self, ref):
        self.remove_pods()
        self.configs.clear()
        self.cri.RemoveImage(image={'image': ref})

    def pull(self, name):
        return self.cri.PullImage(image={'image': f'{cri.REGISTRY}/{name}'}).image_ref

    def test_every_format(self):
        """Each pulled alone: their layers are the same but for the compression, and what is there is not fetched."""
        for name in ('schema1', 'schema2', 'oci', 'zstd', 'plain', 'mixed'):
            with self.subTest(name):
                ref = self.pull(f'formats/{name}')
                try:
                    self.check_layers(ref)
                    image = self.cri.ImageStatus(image={'image': ref}).image
                    self.assertEqual(list(image.repo_tags), [f'{cri.REGISTRY}/formats/{name}:latest'])
                    self.assertTrue(image.repo_digests[0].startswith(f'{cri.REGISTRY}/formats/{name}@sha256:'), image.repo_digests)
                    self.assertGreater(image.size, 4 * 10**6)
                finally:
                    self.remove(ref)
                self.assertEqual(running.stored(), self.before)

    def test_same_image_in_other_formats(self):
        """The id is the config's, and what is there is not fetched again, whatever its compression."""
        with CountingProxy(cri.REGISTRY) as proxy:
            ref = self.pull('formats/oci')
            for name in ('zstd', 'plain', 'mixed'):
                self.assertEqual(self.cri.PullImage(image={'image': f'{proxy.address}/formats/{name}'}).image_ref, ref)
            self.assertEqual(proxy.blobs(), {})
        self.assertEqual(len(self.cri.ImageStatus(image={'image': ref}).image.repo_tags), 4)
        self.remove(ref)

    def test_schema1_is_deprecated(self):
        """The log says so, by name; of a manifest of schema 2 it says nothing."""
        since = time.time()
        for name in ('schema2', 'schema1'):
            self.remove(self.pull(f'formats/{name}'))
        told = lambda: [line for line in cri.run('journalctl', '--user', '--no-pager', '-u', running.DAEMON, '-o', 'cat',
                                                 f'--since=@{since:.3f}').split('\n') if 'deprecated' in line]
        cri.wait_until(told, what='the warning in the journal')
        self.assertEqual(len(told()), 1)
        self.assertIn(f'{cri.REGISTRY}/formats/schema1: ', told()[0])

    def test_index(self):
        ref = self.pull('formats/index')
        self.assertEqual(ref, self.image)            # that for amd64 is test/busybox
        container = self.container(self.pod(), 'ls /arm64 /attestation 2>/dev/null | wc -l', image={'image': ref})
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(), ['0'])

    def test_owners_beyond_the_range(self):
        with self.assertRaises(grpc.RpcError) as failed:
            self.pull('test/owners-beyond')
        text = failed.exception.details()
        print(text)
        self.assertEqual(failed.exception.code(), cri.Code.FAILED_PRECONDITION, text)
        for word in ('test/owners-beyond', OUTSIDE, '/home/', '/etc/subuid', 'ignore-chown-errors'):
            self.assertIn(word, text)
        self.assertEqual(running.stored(), self.before)

    def test_owners_squashed(self):
        with running.settings('ignore-chown-errors = true\n'):
            self.connect()
            ref = self.pull('test/owners-beyond')
            container = self.container(self.pod(), 'stat -c "%n %u %g" /home/owned /home/link /home/near; cat /home/owned', image={'image': ref})
            cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
            self.assertEqual(self.texts(), ['/home/owned 0 0', '/home/link 0 0', '/home/near 1000 1000', 'far'])
            self.remove(ref)
        self.connect()

    def test_family(self):
        """Pulled at once: what they share comes once.  One that goes takes nothing of the others with it."""
        names = ('parent', 'son', 'daughter')
        with CountingProxy(cri.REGISTRY) as proxy:
            calls = [self.cri.future('PullImage', image={'image': f'{proxy.address}/family/{name}'}) for name in names * 3]
            refs = [call.result(timeout=60).image_ref for call in calls][:3]
            self.assertEqual({digest: n for digest, n in proxy.blobs().items() if n > 1}, {})
        self.assertEqual(len(set(refs)), 3)
        layers = len(running.enter('ls', f'{cri.DATA_DIR}/layers').split())
        self.assertEqual(layers, 6)                  # busybox, shared, two, and one of each
        pod = self.pod()
        for gone, left in ((0, (1, 2)), (1, (2,))):
            self.cri.RemoveImage(image={'image': refs[gone]})
            for i in left:
                name = f'{names[i]}{gone}'
                container = self.container(pod, f'cat /{names[i]}; wc -c < /shared/data; wc -c < /{names[i]}-data', name, image={'image': refs[i]})
                cri.wait_until(lambda c=container: self.state(c) == 'EXITED', what='the exit')
                self.cri.RemoveContainer(container_id=container)
                self.assertEqual(self.texts(name=name), [names[i], str(2 << 20), str(1 << 20)])
        self.remove(refs[2])


if __name__ == '__main__':
    running.main()
