#!/usr/bin/python3
"""The daemon killed at any moment of a pull: no half image, nothing left, and the next pull goes on where it was.

Each round pulls an image of five layers through a proxy that counts, kills the daemon at a random moment or at a named
stage of daemon/images (daemon/sys/stage.hpp), and starts it again.  Then
  - the image is there whole or not at all: there if the client was told so, or the database had it,
  - below layers/ there is only what images.db has, which is of the image or finished; no process of the pull runs,
  - the next pull succeeds, asks for no blob twice and for none whose layer was finished before the kill,
  - its files are those of a pull that nobody disturbed, and the daemon holds no descriptor for it,
  - once the image is removed, nothing of it is left.

USERPOD_KILL_ROUNDS sets the random kills, USERPOD_KILL_SEED repeats a run."""
import collections
import json
import os
import random
import re
import sqlite3
import sys
import time

import grpc

import cri
import running

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)) + '/../testbed')
from counting_proxy import CountingProxy  # noqa: E402

ROUNDS = int(os.environ.get('USERPOD_KILL_ROUNDS') or (100 if cri.LONG else 6 if cri.SANITIZE else 12))
SEED = int(os.environ.get('USERPOD_KILL_SEED') or time.time())
NAME = 'test/killed'
LAYERS = f'{cri.DATA_DIR}/layers'
PER_LAYER = ('pull.unpacked', 'pull.settled', 'pull.kept')   # passed by each layer
VICTIMS = ('outer', 'inner', 'unit')


def stages():
    """Of a pull, as they stand in the code."""
    found = set()
    for top, _, names in os.walk(f'{cri.ROOT}/daemon/images'):
        for name in names:
            if name.endswith('.cpp'):
                with open(f'{top}/{name}', encoding='utf-8') as f:
                    found.update(re.findall(r'reachStage\("(pull\.[a-z.-]+)"', f.read()))
    return sorted(found)


def inner_pid():
    return int(cri.run('pgrep', '-P', str(running.main_pid())))


def held():
    """What the daemon has open of the kinds that a pull opens."""
    found = collections.Counter()
    directory = f'/proc/{inner_pid()}/fd'
    for number in os.listdir(directory):
        try:
            link = os.readlink(f'{directory}/{number}')
        except FileNotFoundError:
            continue
        for kind in ('pipe:', '/memfd:', '[pidfd]', f'{LAYERS}/', 'socket:'):
            if kind in link:
                found[kind] += 1
    return found


def trees():
    """What the layers hold: for each the digest of its files' contents and of their names, owners and modes."""
    script = f"""cd {LAYERS} && for layer in *; do ( cd "$layer" && {{ find . -mindepth 1 -printf '%P %y %m %U %G %s %T@ %l\\n' | sort
        find . -type f -print0 | sort -z | xargs -0 -r sha256sum; }} | sha256sum ); done"""
    return sorted(running.enter('sh', '-c', script).split('\n'))


class PullKill(running.Running):
    def setUp(self):
        super().setUp()
        self.enterContext(running.settings('log-level = "debug"\n'))   # each stage is in the journal
        self.addCleanup(running.restart_daemon)
        self.addCleanup(cri.systemctl, 'unset-environment', 'USERPOD_KILL_AT')
        self.connect()
        self.proxy = self.enterContext(CountingProxy(cri.REGISTRY))
        self.name = f'{self.proxy.address}/{NAME}'
        manifest = cri.registry_document(f'{NAME}/manifests/latest')
        self.ref = manifest['config']['digest']
        diff_ids = cri.registry_document(f'{NAME}/blobs/{self.ref}')['rootfs']['diff_ids']
        self.blob_of = dict(zip(diff_ids, (layer['digest'] for layer in manifest['layers'])))
        self.base = diff_ids[0]                                        # that of the image which stays
        self.own = set(diff_ids[1:])
        self.random = random.Random(SEED)
        self.undisturbed()
        print(f'USERPOD_KILL_SEED={SEED}; an undisturbed pull takes {self.duration * 1000:.0f} ms', flush=True)

    def tearDown(self):
        self.cri.RemoveImage(image={'image': self.ref})

    def undisturbed(self):
        times = []
        for _ in range(3):
            self.proxy.clear()
            begin = time.monotonic()
            self.assertEqual(self.pull(), self.ref)
            times.append(time.monotonic() - begin)
            self.assertEqual({d: n for d, n in self.proxy.blobs().items() if d != self.ref},
                             {self.blob_of[d]: 1 for d in self.own})
            self.tree = trees()
            self.remove()
        self.duration = sorted(times)[1]
        running.stored()                                               # waits for the trash, which holds what it empties
        self.held = held()

    def pull(self):
        return self.cri.PullImage(image={'image': self.name}).image_ref

    def remove(self):
        self.cri.RemoveImage(image={'image': self.ref})
        cri.wait_until(lambda: len(self.entries()) == 1, what='only the layer of the other image')

    @staticmethod
    def entries():
        return [name for name in running.enter('ls', '-A', LAYERS).split() if not name.startswith('.trash-')]

    def restart(self, kill_at=None):
        """Without waiting for systemd's own try, a second later."""
        if kill_at:
            cri.systemctl('set-environment', f'USERPOD_KILL_AT={kill_at}')
        else:
            cri.systemctl('unset-environment', 'USERPOD_KILL_AT')
        running.restart_daemon()
        self.connect()

    def kill(self, victim):
        main = running.main_pid()
        if victim == 'unit':
            cri.systemctl('kill', '--kill-whom=all', '--signal=KILL', running.DAEMON)
        else:
            os.kill(inner_pid() if victim == 'inner' else main, 9)
        cri.wait_until(lambda: running.main_pid() != main, what='the end of the daemon')

    def passed(self, since):
        """The stages of the daemons before this one that the journal tells of, as pairs of a name and an object."""
        # What a process wrote before it was killed may come into the journal later, but before what the next one writes.
        now = cri.systemctl('show', '-P', 'InvocationID', running.DAEMON)

        def before():
            lines = cri.run('journalctl', '--user', '-o', 'json', '--no-pager', f'--since=@{since:.6f}', f'--user-unit={running.DAEMON}', check=False)
            entries = [json.loads(line) for line in lines.split('\n') if line]
            of_this = [i for i, e in enumerate(entries) if e.get('_SYSTEMD_INVOCATION_ID') == now and e.get('_TRANSPORT') == 'journal']
            return (True, entries[:of_this[0]]) if of_this else None
        _, entries = cri.wait_until(before, what='the first line of the daemon in the journal')
        return [(e.get('USERPOD_STAGE') or 'killed', e.get('USERPOD_OBJECT') or e.get('USERPOD_KILLED_AT'))
                for e in entries if 'USERPOD_STAGE' in e or 'USERPOD_KILLED_AT' in e]

    def database(self):
        """The layers that images.db has, by directory, as pairs of a DiffID and whether an image has it."""
        with sqlite3.connect(f'file:{cri.DATA_DIR}/images.db?mode=ro', uri=True) as base:
            return {directory: (diff_id, bool(used)) for directory, diff_id, used in base.execute(
                'SELECT directory, diff_id, EXISTS(SELECT 1 FROM image_layers WHERE image_layers.diff_id=layers.diff_id) FROM layers')}

    def check_after_kill(self, told, passed):
        """Returns whether the image is there, and the layers that are finished."""
        there = self.ref in [image.id for image in self.cri.ListImages().images]
        if told or ('pull.committed', self.ref) in passed:
            self.assertTrue(there, 'the image was pulled, and is gone')
        if there:
            self.assertIn('pull.synced', [stage for stage, _ in passed], 'an image that nobody has committed')
        cri.wait_until(lambda: set(self.entries()) == set(self.database()), what='only layers that the database has')
        known = dict(self.database().values())
        self.assertEqual({d for d, used in known.items() if used}, {self.base} | (self.own if there else set()))
        stray = cri.run('pgrep', '-l', '-U', str(os.getuid()), '^userpod-(pull|unpack)$', check=False)
        self.assertEqual(stray, '')
        finished = {diff_id for stage, diff_id in passed if stage == 'pull.kept'}
        self.assertLessEqual(finished, set(known), 'finished layers that are not kept')
        return there, finished

    def check_next_pull(self, there, finished):
        self.proxy.clear()
        self.assertEqual(self.pull(), self.ref)
        asked = self.proxy.blobs()
        again = [d for d in (self.own if there else finished) if asked[self.blob_of[d]]]
        self.assertEqual(again, [], 'finished layers that were fetched again')
        self.assertEqual([d for d, n in asked.items() if n > 1], [], 'blobs that were fetched twice')
        self.assertEqual(asked[self.blob_of[self.base]], 0)
        self.assertEqual(trees(), self.tree)
        self.remove()
        cri.wait_until(lambda: held() == self.held, what=f'descriptors {self.held}, not {held()}')

    def round(self, disturb):
        """disturb: kills the daemon, or waits for its end.  Returns the stages passed and the finished layers."""
        if len(self.entries()) > 1:                                    # what a round that failed has left
            self.pull()
            self.remove()
        begin = time.time()
        call = self.cri.future('PullImage', image={'image': self.name})
        disturb()
        try:
            told = call.result(timeout=60).image_ref == self.ref
        except grpc.RpcError as e:
            self.assertEqual(e.code(), cri.Code.UNAVAILABLE, e.details())
            told = False
        self.restart()
        passed = self.passed(begin)
        there, finished = self.check_after_kill(told, passed)
        self.check_next_pull(there, finished)
        return passed, finished

    def test_random_moments(self):
        reached = collections.Counter()
        parts = self.random.sample(range(ROUNDS), ROUNDS)              # of the time of a pull: each has its kill
        for number, part in enumerate(parts):
            with self.subTest(round=number):
                moment, victim = (part + self.random.random()) * self.duration * 1.1 / ROUNDS, VICTIMS[number % 3]

                def disturb(moment=moment, victim=victim):
                    time.sleep(moment)
                    self.kill(victim)
                passed, finished = self.round(disturb)
                reached[f'{passed[-1][0] if passed else "none"}, {len(finished)} finished'] += 1
        print('the last stages before the kills:', dict(sorted(reached.items())), flush=True)
        self.assertTrue(cri.SLOW or len(reached) > 2, 'the kills did not come at different stages')

    def test_stages(self):
        wanted = stages()
        self.assertTrue(wanted)
        for stage in wanted + [f'{s}:3' for s in wanted if s in PER_LAYER]:
            with self.subTest(stage=stage):
                begin = time.time()
                self.restart(kill_at=stage)
                main = running.main_pid()
                self.round(lambda main=main: cri.wait_until(lambda: running.main_pid() != main, what='the end of the daemon'))
                self.assertIn(('killed', stage.partition(':')[0]), self.passed(begin))


if __name__ == '__main__':
    running.main()
