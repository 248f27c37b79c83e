#!/usr/bin/python3
"""Images as they are kept and seen: pins, prune, removal against creation, and pulls as jobs: progress, rate, cancel."""
import concurrent.futures
import json
import os
import random
import subprocess
import sys
import threading
import time

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from lying_registry import LyingRegistry  # noqa: E402
from registry_images import Layer  # noqa: E402

ROOT, BUS = '/org/userpod1', 'org.userpod1'
ROUNDS = 40 if cri.SLOW else 200


def layer(text, size=0):
    """A layer with one file; size: bytes that do not compress beside it."""
    content = Layer().file('text', text, mode=0o755)
    return (content.file('noise', random.Random(text).randbytes(size)) if size else content).bytes()


def answer(handler, data, pieces=1, between=None):
    """Sends data in so many pieces; between(i) is called before each."""
    handler.send_response(200)
    handler.send_header('Content-Length', str(len(data)))
    handler.end_headers()
    step = -(-len(data) // pieces)
    try:
        for i in range(pieces):
            if between:
                between(i)
            handler.wfile.write(data[i * step:(i + 1) * step])
    except ConnectionError:
        pass                                         # the client has left


class Monitor:
    """The signals of the bus within the block, as (time, path, member, arguments)."""

    def __enter__(self):
        self.process = subprocess.Popen(['busctl', '--user', '--json=short', 'monitor', BUS], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.process.stderr.readline()               # "Monitoring bus message stream."
        self.signals = []
        self.reader = threading.Thread(target=self.read)
        self.reader.start()
        return self

    def read(self):
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get('type') == 'signal':
                self.signals.append((time.monotonic(), message['path'], message['member'], cri.plain(message['payload']['data'])))

    def __exit__(self, *_):
        self.process.terminate()
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        self.process.wait()

    def changes(self, path):
        return [(at, arguments[1]) for at, where, member, arguments in list(self.signals)
                if where == path and member == 'PropertiesChanged']


class Images(running.Running):
    def setUp(self):
        super().setUp()
        self.registry = LyingRegistry()
        self.registry.__enter__()
        self.addCleanup(self.registry.__exit__)

    def tearDown(self):
        self.remove_pods()
        for image in self.cri.ListImages().images:
            if image.id != self.image:
                self.cri.RemoveImage(image={'image': image.id})

    def name(self, name):
        return f'{self.registry.address}/{name}'

    def pull(self, name):
        return self.cri.PullImage(image={'image': self.name(name)}).image_ref

    def listed(self):
        return {i.id: i for i in self.cri.ListImages().images}

    def on_bus(self, image, name):
        return cri.bus_get(f'{ROOT}/images/{image.removeprefix("sha256:")}', f'{BUS}.Image', name)

    def start_pull(self, name):
        return cri.bus_call(ROOT, f'{BUS}.Manager', 'PullImage', 'sa{sv}', self.name(name), 0)[1]

    def job(self, path, name):
        return cri.bus_get(path, f'{BUS}.Job', name)

    def wait(self, job):
        return cri.bus_call(job, f'{BUS}.Job', 'Wait', 'a{sv}', 0)[0]

    def prune(self, **options):
        words = [w for o, v in options.items() for w in (o.replace('_', '-'), 'b', str(v).lower())]
        return self.wait(cri.bus_call(ROOT, f'{BUS}.Manager', 'PruneImages', 'a{sv}', len(options), *words)[1])

    def retagged(self, name):
        """Two images that were pulled under one tag: the one that has lost it, the one that has it."""
        self.registry.image(name, [layer(f'{name} old')])
        old = self.pull(name)
        self.registry.image(name, [layer(f'{name} new')])
        return old, self.pull(name)

    # ---- pins

    def test_pins_go_by_the_names_that_an_image_has_now(self):
        self.registry.image('pinned/one', [layer('one')])
        self.registry.image('other', [layer('other')])
        other = self.pull('other')
        self.assertFalse(self.listed()[other].pinned)
        with running.settings(f'pinned-images = ["{self.registry.address}/pinned/one:*", "{other}"]\n'):
            self.connect()
            self.assertTrue(self.listed()[other].pinned, 'at once after the start')
            self.assertTrue(self.on_bus(other, 'Pinned'))
            self.assertFalse(self.listed()[self.image].pinned)
            old, new = self.retagged('pinned/one')
            shown = self.listed()
            self.assertEqual((shown[old].pinned, shown[new].pinned), (False, True))
            self.assertEqual((self.on_bus(old, 'Pinned'), self.on_bus(new, 'Pinned')), (False, True))
            self.assertTrue(self.cri.ImageStatus(image={'image': new}).image.pinned)
            gone = self.prune(all=True)['images']
            self.assertEqual(set(gone), {old, self.image})
            self.assertEqual(set(self.listed()), {new, other})
            # Whoever names one removes it: a pin is no lock.
            self.cri.RemoveImage(image={'image': other})
            self.assertEqual(set(self.listed()), {new})
        self.connect()
        self.assertFalse(self.listed()[new].pinned)

    # ---- prune

    def test_prune(self):
        old, new = self.retagged('tagged')
        pod = self.pod()
        used, keeps = self.retagged('used')
        volume, _ = self.retagged('volume')
        self.container(pod, 'sleep 600', image={'image': self.image}, mounts=[
            {'container_path': '/v', 'image': {'image': volume}, 'readonly': True}])
        made = self.cri.CreateContainer(pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
            'metadata': {'name': 'used'}, 'image': {'image': used}, 'command': ['/text'], 'linux': {}}).container_id
        before = self.listed()
        dry = self.prune(dry_run=True)
        self.assertEqual(dry['images'], [old])
        self.assertEqual(dry['bytes'], before[old].size)
        self.assertEqual(set(self.listed()), set(before))
        self.assertEqual(self.prune(), dry)
        self.assertEqual(set(self.listed()), set(before) - {old})
        self.assertEqual(self.prune(), {'images': [], 'bytes': 0})
        self.cri.RemoveContainer(container_id=made)
        everything = self.prune(all=True)
        self.assertEqual(set(everything['images']), set(before) - {old, self.image, volume})
        self.assertIn(keeps, everything['images'])
        self.assertIn(new, everything['images'])
        self.assertEqual(set(self.listed()), {self.image, volume})

    def test_shared_layers_are_not_freed(self):
        shared = layer('shared', 100_000)
        self.registry.image('stays', [shared, layer('stays')])
        self.registry.image('goes', [shared, layer('goes', 5000)])
        stays, goes = self.pull('stays'), self.pull('goes')
        self.registry.image('goes', [shared, layer('came')])
        self.pull('goes')
        result = self.prune()
        self.assertEqual(result['images'], [goes])
        self.assertTrue(5000 <= result['bytes'] < 100_000, result)
        self.assertGreater(self.listed()[stays].size, 100_000)
        self.assertGreater(self.prune(all=True)['bytes'], 100_000)

    # ---- removal

    def test_in_use_names_the_container(self):
        pod = self.pod()
        made = self.container(pod, 'true', name='holder', start=False)
        for reference in (running.IMAGE, self.image):
            with self.assertRaises(cri.grpc.RpcError) as failed:
                self.cri.RemoveImage(image={'image': reference})
            self.assertEqual(failed.exception.code(), cri.Code.FAILED_PRECONDITION)
            self.assertIn(f'container {made} (holder); remove that first', failed.exception.details())

    def test_removal_races_creation(self):
        """Either the container is made, whole, and the image stays, or the image goes and no container is made."""
        self.registry.image('raced', [layer('raced\n')])
        pod, outcomes = self.pod(), {'made': 0, 'removed': 0}
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for i in range(ROUNDS):
                image = self.pull('raced')
                barrier, pause = threading.Barrier(2), random.random() * 0.004

                def create():
                    barrier.wait()
                    time.sleep(pause if i % 2 else 0)
                    volume = {'container_path': '/v', 'image': {'image': image}, 'readonly': True}
                    return self.cri.CreateContainer(pod_sandbox_id=pod, sandbox_config=self.configs[pod], config={
                        'metadata': {'name': 'raced', 'attempt': i}, 'image': {'image': self.image}, 'linux': {},
                        'command': ['cat', '/v/text'], 'mounts': [volume], 'log_path': f'{i}.log'}).container_id

                def remove():
                    barrier.wait()
                    time.sleep(0 if i % 2 else pause)
                    self.cri.RemoveImage(image={'image': image})
                making, removing = pool.submit(create), pool.submit(remove)
                concurrent.futures.wait([making, removing])
                if making.exception() is None:
                    outcomes['made'] += 1
                    self.assertEqual(removing.exception().code(), cri.Code.FAILED_PRECONDITION, removing.exception())
                    made = making.result()
                    self.cri.StartContainer(container_id=made)
                    cri.wait_until(lambda: self.state(made) == 'EXITED', what='the end of cat')
                    self.assertEqual((self.status(made).exit_code, self.texts(name=str(i))), (0, ['raced']))
                    self.cri.RemoveContainer(container_id=made)
                else:
                    outcomes['removed'] += 1
                    self.assertRegex(making.exception().details(), 'is being removed|is not here')
                    self.assertIsNone(removing.exception())
                    self.assertNotIn(image, self.listed())
        print(outcomes)
        self.assertTrue(cri.SLOW or all(outcomes.values()), 'one end only: nothing has raced')

    def test_removals_at_once(self):
        for i in range(ROUNDS // 10):
            self.registry.image('many', [layer('many')])
            image = self.pull('many')
            barrier = threading.Barrier(5)

            def remove(reference):
                barrier.wait()
                with cri.Cri() as client:
                    client.RemoveImage(image={'image': reference})
                    return image in {i.id for i in client.ListImages().images} or client.ImageStatus(image={'image': image}).HasField('image')
            with concurrent.futures.ThreadPoolExecutor(5) as pool:
                seen = list(pool.map(remove, [image, self.name('many'), image[7:], self.name('many:latest'), image]))
            self.assertEqual(seen, [False] * 5, f'seen after it was removed, in round {i}')

    # ---- jobs

    def slow_image(self, name, seconds, size=2_000_000):
        """An image of two layers; the blob of the larger comes evenly over that time.  Its digest, and a list that gets
        the time before each of the hundred pieces."""
        big = layer(name, size)
        self.registry.image(name, [layer(f'{name} small'), big])
        digest = next(d for d, data in self.registry.blobs.items() if len(data) > size)
        sent = []

        def before_piece(_):
            time.sleep(seconds / 100)
            sent.append(time.monotonic())
        self.registry.answers[f'/v2/{name}/blobs/{digest}'] = lambda h: answer(h, self.registry.blobs[digest], 100, before_piece)
        return digest, sent

    def test_progress_and_rate(self):
        digest, sent = self.slow_image('slow', 4)
        with Monitor() as monitor:
            begin = time.monotonic()
            job = self.start_pull('slow')
            self.wait(job)
            cri.wait_until(lambda: any(c.get('State') == 'done' for _, c in monitor.changes(job)), what='the end on the bus')
            changes, duration = monitor.changes(job), time.monotonic() - begin
        running_changes = [c for _, c in changes if 'FinishedAt' not in c]
        # Altogether: when one of them is read says little of when it was sent.  The pieces alone are a hundred.
        self.assertLessEqual(len(running_changes), 4 * duration + 2, 'more than four changes a second')
        rates = sorted(c['Rate'] for c in running_changes if c.get('Rate'))
        size = len(self.registry.blobs[digest])
        self.assertTrue(rates, changes)
        if not cri.SLOW:                             # by what the registry has really sent, which a loaded machine slows down
            real = size / (sent[-1] - sent[0])
            self.assertTrue(0.5 * real < rates[len(rates) // 2] < 2 * real, (real, rates))
        last = changes[-1][1]
        self.assertEqual((last['State'], self.job(job, 'Stage'), self.job(job, 'Progress'), self.job(job, 'Rate')), ('done', 'done', 1, 0))
        done, total, items = (self.job(job, p) for p in ('Done', 'Total', 'Items'))
        self.assertEqual(done, total)
        self.assertEqual(sum(i[3] for i in items), total)
        self.assertIn([digest, 'unpacked', size, size], items)

    def test_cancel_while_resolving(self):
        self.registry.image('held', [layer('held')])
        asked, go_on = threading.Event(), threading.Event()

        def held(handler):
            asked.set()
            go_on.wait(60)
            answer(handler, b'{}')
        self.addCleanup(go_on.set)
        self.registry.answers['/v2/held/manifests/latest'] = held
        job = self.start_pull('held')
        self.assertTrue(asked.wait(60))
        self.assertEqual(self.job(job, 'Stage'), 'resolving')
        self.canceled(job)
        self.assertEqual(set(self.listed()), {self.image})

    def test_cancel_while_downloading(self):
        before = running.stored()
        digest, _ = self.slow_image('endless', 600)
        job = self.start_pull('endless')
        cri.wait_until(lambda: any(i[0] == digest and i[2] > 0 for i in self.job(job, 'Items')), what='a part of the layer')
        self.assertEqual(self.job(job, 'Stage'), 'downloading')
        self.assertTrue(self.job(job, 'Cancelable'))
        self.canceled(job)
        self.assertEqual(set(self.listed()), {self.image})
        self.cri.RemoveImage(image={'image': self.pull_again('endless', digest)})
        self.assertEqual(running.stored(), before)

    def pull_again(self, name, digest):
        del self.registry.answers[f'/v2/{name}/blobs/{digest}']
        return self.pull(name)

    def canceled(self, job):
        cri.bus_call(job, f'{BUS}.Job', 'Cancel', 'a{sv}', 0)
        with self.assertRaises(RuntimeError):
            self.wait(job)
        self.assertEqual(self.job(job, 'State'), 'canceled')
        self.assertEqual(self.job(job, 'ErrorName'), f'{BUS}.Error.Canceled')
        self.assertFalse(self.job(job, 'Cancelable'))
        with self.assertRaisesRegex(RuntimeError, 'is over'):
            cri.bus_call(job, f'{BUS}.Job', 'Cancel', 'a{sv}', 0)

    def test_cancel_while_committing(self):
        """Around the last byte: the image is there, whole, and the job is done, or there is nothing of it.  The first is
        cancelled before that byte, the last one when it is done."""
        ends, rounds = {}, ROUNDS // 10
        for i in range(rounds):
            name = f'late-{i}'
            self.registry.image(name, [layer(name, 300_000)])
            digest = next(d for d, data in self.registry.blobs.items() if len(data) > 300_000)
            job, refusals = [], []
            ahead = 0.04 - 0.12 * i / (rounds - 1)   # seconds between the call and the last byte, about

            def cancel(job=job, refusals=refusals, ahead=ahead, last=i == rounds - 1):
                time.sleep(max(0, -ahead))
                if last:
                    cri.wait_until(lambda: self.job(job[0], 'State') == 'done', what='the end of the pull')
                try:
                    cri.bus_call(cri.wait_until(lambda: job, what='the job')[0], f'{BUS}.Job', 'Cancel', 'a{sv}', 0)
                except RuntimeError as e:
                    refusals.append(str(e))
            canceling = threading.Thread(target=cancel)

            def last_byte(piece, canceling=canceling, ahead=ahead, first=i == 0):
                if piece == 1:
                    canceling.start()
                    if first:
                        canceling.join()
                    time.sleep(max(0, ahead))
            self.registry.answers[f'/v2/{name}/blobs/{digest}'] = lambda h, d=self.registry.blobs[digest], l=last_byte: answer(h, d, 2, l)
            job.append(self.start_pull(name))
            job = job[0]
            try:
                image = self.wait(job)['image'].rpartition('/')[2]
            except RuntimeError:
                image = None
            canceling.join()
            self.assertTrue(all('is over' in r for r in refusals), refusals)
            state = self.job(job, 'State')
            ends[state] = ends.get(state, 0) + 1
            self.assertEqual(state, 'done' if image else 'canceled')
            there = set(self.listed()) - {self.image}
            self.assertEqual(there, {f'sha256:{image}'} if image else set())
            for one in there:
                self.cri.RemoveImage(image={'image': one})
            self.registry.blobs.clear()
        print('committing:', ends)
        self.assertEqual(set(ends), {'done', 'canceled'})


running.main()
