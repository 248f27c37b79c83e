#!/usr/bin/python3
"""Pulls that share, wait for each other, are cancelled before their turn, stopped with the daemon, and race removals."""
import os
import random
import re
import sys
import threading
import time

import grpc

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from counting_proxy import CountingProxy  # noqa: E402
from registry_images import Registry  # noqa: E402

ROOT, BUS = '/org/userpod1', 'org.userpod1'
THREADS = 8                                          # kPulls of daemon/core/pulls.cpp
ANSWER = 2 * (5 if cri.SLOW else 1)                  # seconds that a cancelled pull's answer may take
ROUNDS = 30
SLOW_RATE = 1 << 18                                # bytes a second of each connection: family/son takes some 8 s
Code = cri.Code


class Pulls(running.Running):
    cleared = False                                  # of the layers of other tests

    def setUp(self):
        super().setUp()
        if not Pulls.cleared:
            self.drop_layers()
            Pulls.cleared = True
        self.before = running.stored()
        self.proxy = self.enterContext(CountingProxy(cri.REGISTRY))
        self.documents = Registry(int(cri.REGISTRY.rpartition(':')[2]))
        self.addCleanup(self.documents.http.close)

    def tearDown(self):
        self.proxy.rate = None
        self.proxy.release()
        self.connect()
        for image in self.cri.ListImages().images:
            if image.id != self.image:
                self.cri.RemoveImage(image={'image': image.id})
        self.prune_layers()
        self.assertEqual(running.stored(), self.before)

    def layers(self, name, tag):
        return [layer['digest'] for layer in self.documents.document(name, tag)['layers']]

    def future(self, name):
        return self.cri.future('PullImage', image={'image': f'{self.proxy.address}/{name}'})

    def start_job(self, name):
        return cri.bus_call(ROOT, f'{BUS}.Manager', 'PullImage', 'sa{sv}', f'{self.proxy.address}/{name}', 0)[1]

    def job(self, path, name):
        return cri.bus_get(path, f'{BUS}.Job', name)

    def cancel_job(self, job):
        """How long it takes until whoever waits for it knows."""
        begin = time.monotonic()
        cri.bus_call(job, f'{BUS}.Job', 'Cancel', 'a{sv}', 0)
        with self.assertRaisesRegex(RuntimeError, 'Canceled|canceled'):
            cri.bus_call(job, f'{BUS}.Job', 'Wait', 'a{sv}', 0)
        self.assertEqual(self.job(job, 'State'), 'canceled')
        return time.monotonic() - begin

    def listed(self):
        return {i.id for i in self.cri.ListImages().images}

    # ---- many at once

    def test_equal_pulls_are_one(self):
        layers = self.layers('test/tags-a', '1')
        self.proxy.hold(layers)
        calls = [self.future('test/tags-a:1') for _ in range(3)]
        jobs = [self.start_job('test/tags-a:1') for _ in range(2)]
        cri.wait_until(lambda: self.proxy.waiting, what='the request of the layer')
        self.assertFalse(any(call.done() for call in calls))
        self.proxy.release()
        refs = {call.result(timeout=60).image_ref for call in calls}
        for job in jobs:
            refs.add('sha256:' + cri.bus_call(job, f'{BUS}.Job', 'Wait', 'a{sv}', 0)[0]['image'].rpartition('/')[2])
        self.assertEqual(len(refs), 1)
        self.assertEqual(self.proxy.blobs(), dict.fromkeys([*refs, *layers], 1))

    def test_the_first_of_equal_pulls_leaves(self):
        """What it has begun goes on for the others: nothing is asked for twice, neither the name."""
        self.proxy.rate = SLOW_RATE
        first = self.future('family/son')
        cri.wait_until(lambda: self.proxy.sent > 1 << 17, what='some bytes')
        jobs = [self.start_job('family/son') for _ in range(2)]
        # The pull's progress is told to whom it belongs to.
        cri.wait_until(lambda: all(self.job(job, 'Stage') == 'downloading' for job in jobs), what='the progress of those that joined')
        begin = time.monotonic()
        first.cancel()
        with self.assertRaises(grpc.FutureCancelledError):
            first.result(timeout=60)
        sent = self.proxy.sent
        cri.wait_until(lambda: self.proxy.sent > sent + (1 << 17), what='more bytes')
        self.assertLess(self.cancel_job(jobs.pop()), ANSWER)
        self.assertLess(time.monotonic() - begin, 10 * ANSWER)
        self.proxy.rate = None
        image = 'sha256:' + cri.bus_call(jobs[0], f'{BUS}.Job', 'Wait', 'a{sv}', 0)[0]['image'].rpartition('/')[2]
        self.assertEqual(self.listed(), {self.image, image})
        missing = [digest for digest in self.layers('family/son', 'latest') if digest not in self.layers('test/busybox', '1')]
        self.assertEqual(self.proxy.blobs(), dict.fromkeys([image, *missing], 1))
        self.assertEqual(self.proxy.ranges, [])
        self.assertEqual(self.proxy.names(), {'family/son': 1})

    # ---- cancelled

    def busy(self, count=THREADS):
        """Pulls of so many images, as there are threads, each held at its layer, as that of test/tags-i would be."""
        names = [f'test/tags-{name}' for name in 'abcdefgh'[:count]]
        self.proxy.hold([digest for name in (*names, 'test/tags-i') for digest in self.layers(name, '1')])
        calls = [self.future(f'{name}:1') for name in names]
        cri.wait_until(lambda: set(names) <= set(self.proxy.names()), what='the requests of all names')
        return calls

    def test_cancelled_before_its_turn(self):
        calls = self.busy()
        job = self.start_job('test/tags-i:2')
        ninth = self.future('test/tags-i:1')
        cri.wait_until(lambda: self.job(job, 'State') == 'queued', what='the job in the queue')
        self.assertFalse(ninth.done())
        # As long as there are as many threads as this test says, none is left for these.
        self.assertNotIn('test/tags-i', self.proxy.names())
        self.assertLess(self.cancel_job(job), ANSWER)
        over, begin = threading.Event(), time.monotonic()
        ninth.add_done_callback(lambda _: over.set())
        ninth.cancel()
        self.assertTrue(over.wait(ANSWER))
        self.assertLess(time.monotonic() - begin, ANSWER)
        # The others go on, and who asks for the same again gets it.
        self.assertFalse(any(call.done() for call in calls))
        again = self.future('test/tags-i:1')
        self.proxy.release()
        refs = {call.result(timeout=60).image_ref for call in calls}
        self.assertEqual(len(refs), THREADS)
        refs.add(again.result(timeout=60).image_ref)
        self.assertEqual(self.listed(), {self.image} | refs)
        self.assertEqual({digest: n for digest, n in self.proxy.blobs().items() if n > 1}, {})
        self.assertEqual(self.proxy.names()['test/tags-i'], 1)       # those that were cancelled never began

    def test_cancelled_while_another_fetches_its_layer(self):
        """twin-a:1 is tags-a:1 of another repository."""
        layers = self.layers('test/tags-a', '1')
        self.proxy.hold(layers)
        first = self.future('test/tags-a:1')
        cri.wait_until(lambda: self.proxy.waiting == 1, what='the request of the layer')
        waits, job = self.future('test/twin-a:1'), self.start_job('test/twin-a:1')
        config = self.documents.document('test/twin-a', '1')['config']['digest']
        cri.wait_until(lambda: self.proxy.asked['GET', f'/v2/test/twin-a/blobs/{config}'], what='the request of its config')
        self.assertLess(self.cancel_job(job), ANSWER)
        self.assertFalse(waits.done())
        waits.cancel()
        # The pull itself is over too: its thread is free, and its process gone.
        cri.wait_until(lambda: self.processes() == 1, timeout=ANSWER, what='the end of the process of the one that was cancelled')
        self.assertFalse(first.done())
        self.proxy.release()
        ref = first.result(timeout=60).image_ref
        self.assertEqual(self.proxy.blobs()[layers[0]], 1)
        self.assertEqual(list(self.cri.ImageStatus(image={'image': ref}).image.repo_tags), [f'{self.proxy.address}/test/tags-a:1'])

    def processes(self):
        """Pulls' processes of this user."""
        return int(cri.run('pgrep', '-c', '-u', str(os.getuid()), '-x', 'userpod-pull', check=False))

    # ---- stopped

    def test_restart_in_the_midst(self):
        """With pulls that flow, that are held and that wait for their turn."""
        self.proxy.rate = SLOW_RATE
        calls = [self.future('family/son'), *self.busy(THREADS - 1)]
        calls += [self.future('test/tags-i:1'), self.future('test/tags-i:2')]
        job = self.start_job('test/twin-i:1')
        cri.wait_until(lambda: self.proxy.sent > 1 << 17, what='some bytes')
        since, begin, pid = time.time(), time.monotonic(), running.main_pid()
        cri.systemctl('restart', running.DAEMON)
        took = time.monotonic() - begin
        print(f'restart in {took:.2f} s')
        self.assertLess(took, 10 * (4 if cri.SLOW else 1))
        self.assertNotEqual(running.main_pid(), pid)
        for call in calls:
            with self.assertRaises(grpc.RpcError) as ended:
                call.result(timeout=10)
            self.assertIn(ended.exception.code(), (Code.UNAVAILABLE, Code.CANCELLED), ended.exception.details())
        cri.wait_until(lambda: 'Started ' in self.journal(since), what='the new daemon in the journal')
        told = self.journal(since)
        self.assertIn('Stopped ', told)
        self.assertNotRegex(told, re.compile('failed with result|timed out|killing process|status=', re.I))
        self.assertEqual(cri.systemctl('show', '-P', 'Result', running.DAEMON), 'success')
        cri.wait_until(lambda: self.processes() == 0, timeout=5, what='the end of the processes of all pulls')
        self.assertNotIn(job, cri.bus_objects())
        self.connect()
        self.assertEqual(self.listed(), {self.image})
        self.proxy.rate = None
        self.proxy.release()
        for name in 'family/son', 'test/tags-a:1', 'test/tags-i:1':
            self.assertIn(self.future(name).result(timeout=60).image_ref, self.listed())

    def journal(self, since):
        return cri.run('journalctl', '--user', '--no-pager', '-u', running.DAEMON, '-o', 'cat', f'--since=@{since:.3f}')

    # ---- against removals

    def test_races_removals(self):
        """A pull succeeds whatever is removed meanwhile; a removal succeeds whatever is pulled; nothing is left."""
        names, ends, over = ('test/tags-b:1', 'test/twin-b:1'), {}, threading.Event()
        image = self.documents.document('test/tags-b', '1')['config']['digest']

        def count(what, outcome):
            ends[what, outcome] = ends.get((what, outcome), 0) + 1

        def call(what, method, **fields):
            try:
                method(**fields)
                count(what, 'OK')
            except grpc.RpcError as e:
                count(what, f'{e.code().name}: {e.details()}')

        def pull(name):
            with cri.Cri() as client:
                for _ in range(ROUNDS):
                    call('pull', client.PullImage, image={'image': f'{self.proxy.address}/{name}'})

        def remove(references):
            with cri.Cri() as client:
                while not over.is_set():
                    for reference in references:
                        time.sleep(random.random() * 0.01)   # so that some pulls find the image
                        call('remove', client.RemoveImage, image={'image': reference})
        removers = [threading.Thread(target=remove, args=[[image, f'{self.proxy.address}/{name}']]) for name in names]
        pullers = [threading.Thread(target=pull, args=[name]) for name in names]
        for thread in removers + pullers:
            thread.start()
        for thread in pullers:
            thread.join()
        over.set()
        for thread in removers:
            thread.join()
        print({key: n for key, n in ends.items()})
        self.assertEqual({outcome for _, outcome in ends}, {'OK'}, ends)
        self.assertEqual(ends['pull', 'OK'], 2 * ROUNDS)
        self.assertGreater(self.proxy.blobs()[self.layers('test/tags-b', '1')[0]], 1, 'no removal was in time')
        # It is there, whole, or it is not.
        shown = self.cri.ImageStatus(image={'image': image}).HasField('image')
        self.assertEqual(shown, image in self.listed())
        self.cri.PullImage(image={'image': f'{self.proxy.address}/{names[0]}'})
        self.assertIn(image, self.listed())


if __name__ == '__main__':
    running.main()
