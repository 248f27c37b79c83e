#!/usr/bin/python3
"""The way to the registry fails in the midst of layers: broken connections are resumed, other bytes are refused, and the
next pull succeeds."""
import os
import sys
import time

import grpc

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from counting_proxy import CountingProxy  # noqa: E402

NAME = 'test/killed'                                 # of five layers, from 1 to 12 MB


class Faults(running.Running):
    def setUp(self):
        super().setUp()
        self.before = running.stored()
        self.proxy = self.enterContext(CountingProxy(cri.REGISTRY))
        manifest = cri.registry_document(f'{NAME}/manifests/latest')
        self.ref = manifest['config']['digest']
        self.size = {layer['digest']: layer['size'] for layer in manifest['layers'][1:]}   # the first one is there
        self.large = max(self.size, key=self.size.get)

    def tearDown(self):
        self.connect()
        self.proxy.rate = None
        self.proxy.faults.clear()
        self.remove_pods()
        self.configs.clear()
        self.pull()
        self.cri.RemoveImage(image={'image': self.ref})
        self.assertEqual(running.stored(), self.before)

    def pull(self):
        self.assertEqual(self.cri.PullImage(image={'image': f'{self.proxy.address}/{NAME}'}).image_ref, self.ref)

    def refused(self, *words):
        with self.assertRaises(grpc.RpcError) as failed:
            self.pull()
        text = failed.exception.details()
        print(text)
        for word in (NAME, *words):
            self.assertIn(word, text)
        self.assertNotIn(self.ref, [i.id for i in self.cri.ListImages().images])

    def runs(self):
        """A container of it counts its files."""
        container = self.container(self.pod(), 'find /large /many /middle /small -type f | wc -l', image={'image': self.ref})
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        self.assertEqual(self.texts(), ['2340'])
        self.remove_pods()
        self.configs.clear()

    def test_every_layer_is_cut_once(self):
        self.proxy.faults = {digest: ['cut'] for digest in self.size}
        self.pull()
        # The second half of each by a range, and nothing twice.
        self.assertEqual({digest: f'bytes={size // 2}-' for digest, size in self.size.items()},
                         {digest: given.partition('-')[0] + '-' for digest, given in self.proxy.ranges})
        self.assertEqual(self.proxy.blobs(), {self.ref: 1, **{digest: 2 for digest in self.size}})
        self.runs()

    def test_a_layer_stalls(self):
        """The time-out is of silence: what comes slowly, comes."""
        with running.settings('pull-stall-timeout = 2\n'):
            self.connect()
            self.proxy.rate, self.proxy.faults = 6 << 20, {self.large: ['stall']}
            begin = time.monotonic()
            self.pull()
            self.assertGreater(time.monotonic() - begin, 2)
            self.assertEqual([digest for digest, _ in self.proxy.ranges], [self.large])
            self.proxy.rate = None
            self.runs()
        self.connect()

    def test_a_layer_stalls_always(self):
        with running.settings('pull-stall-timeout = 1\n'):
            self.connect()
            self.proxy.faults = {self.large: ['stall'] + ['mute'] * 100}
            self.refused('RegistryUnavailable', 'no data for 1 s')
        self.connect()

    def test_wrong_bytes(self):
        self.proxy.faults = {self.large: ['corrupt'] * 10}
        self.refused(self.large)

    def test_redirected(self):
        self.proxy.faults = {digest: ['redirect'] for digest in self.size}
        self.pull()
        self.assertEqual(self.proxy.blobs(), {self.ref: 1, **{digest: 1 for digest in self.size}})
        self.runs()

    def test_who_asks_is_confined(self):
        """In the node, whose /run has the host's sockets in more than one place: tests/unit/confine_transfer_test.cpp has the rest."""
        pod = self.pod()
        self.container(pod, 'trap "exit 0" TERM; while :; do usleep 5000; done')
        self.proxy.rate = 4 << 20
        call = self.cri.future('PullImage', image={'image': f'{self.proxy.address}/{NAME}'})
        cri.wait_until(lambda: self.proxy.sent > 1 << 20, what='some bytes')
        process = running.enter('pgrep', '-x', 'userpod-pull').split()
        self.assertEqual(len(process), 1)
        status, mounts = (running.enter('cat', f'/proc/{process[0]}/{name}') for name in ('status', 'mountinfo'))
        fields = dict(line.split(':\t', 1) for line in status.split('\n') if ':\t' in line)
        self.assertEqual((int(fields['CapPrm'], 16), int(fields['CapEff'], 16), fields['NoNewPrivs'], fields['Seccomp']), (0, 0, '1', '2'))
        places = [line.split(' ') for line in mounts.split('\n')]
        self.assertEqual([place[4] for place in places if 'ro' not in place[5].split(',')], [])
        hidden = ('/run/.host', '/run/userpod', f'{cri.DATA_DIR}/containers/')
        self.assertEqual([place[4] for place in places if place[4].startswith(hidden)], [])
        seen = running.enter('sh', '-c', f'ls -A /proc/{process[0]}/root/{cri.RUNTIME_DIR} /proc/{process[0]}/root/run/.host 2>&1; true')
        self.assertNotIn('bus', seen.split())
        self.proxy.rate = None
        self.assertEqual(call.result(timeout=120).image_ref, self.ref)

    def test_canceled_calls(self):
        """A client that goes away ends its own part of a pull, not that of another client, which fetches nothing anew."""
        self.proxy.rate = 2 << 20
        name = f'{self.proxy.address}/{NAME}'
        canceled = self.cri.future('PullImage', image={'image': name})
        cri.wait_until(lambda: self.proxy.sent > 1 << 20, what='some bytes')
        stays = cri.bus_call('/org/userpod1', f'{cri.BUS}.Manager', 'PullImage', 'sa{sv}', name, 0)[1]
        cri.wait_until(lambda: cri.bus_get(stays, f'{cri.BUS}.Job', 'Stage') == 'downloading', what='the second pull')
        self.assertFalse(canceled.done(), 'the first pull was over before the second began')
        canceled.cancel()
        self.proxy.rate = None
        result = cri.bus_call(stays, f'{cri.BUS}.Job', 'Wait', 'a{sv}', 0)[0]
        self.assertEqual(result['image'].rpartition('/')[2], self.ref.removeprefix('sha256:'))
        self.assertEqual(self.proxy.blobs(), {self.ref: 1, **{digest: 1 for digest in self.size}})
        self.runs()


if __name__ == '__main__':
    running.main()
