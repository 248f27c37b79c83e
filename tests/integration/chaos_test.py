#!/usr/bin/python3
"""The daemon killed at any moment, under load, again and again: what it said stays true, and nothing is left.

Each round starts a daemon, lets clients make and remove pods, containers, execs and images, kills it (at a named stage
of the code, see daemon/sys/stage.hpp, or after a random time), starts it again and then
  - compares what it says with what clients had been told before the kill,
  - repeats the calls that got no answer, as kubelet does,
  - removes everything and lets tests/oracle look for what is left,
while the containers of a pod that is never touched count: none may restart, none lose a line.

USERPOD_CHAOS_ROUNDS sets the rounds of each storage driver, USERPOD_CHAOS_SEED repeats a run."""
import collections
import json
import os
import random
import re
import subprocess
import threading
import time
import traceback

import grpc

import cri
import running

ROUNDS = int(os.environ.get('USERPOD_CHAOS_ROUNDS') or ((60 if cri.SANITIZE else 500) if cri.LONG else 4 if cri.SANITIZE else 16))
LEAST_HITS = 10 if ROUNDS >= 500 else 0
SEED = int(os.environ.get('USERPOD_CHAOS_SEED') or time.time())
WITNESS = 'trap "exit 0" TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 20000; done'
SERVICE = 'trap "exit 0" TERM; sleep 3600 & wait'
TASK = 'echo done; exit 7'
CLIENTS = 3
ORACLE = f'{cri.ROOT}/tests/oracle'


def stages(driver):
    """The names in the code, without those of other drivers and of calls that this load does not make."""
    found = set()
    for top, _, names in os.walk(f'{cri.ROOT}/daemon'):
        for name in names:
            if name.endswith('.cpp'):
                with open(f'{top}/{name}', encoding='utf-8') as f:
                    found.update(re.findall(r'reachStage\("([a-z.-]+)"', f.read()))
    others = {'fuse', 'copy', 'overlay', 'update', 'log', 'pause', 'resume', 'cni'} - {driver.partition('-')[0]}
    return sorted(s for s in found if s.partition('.')[0] not in others)


class Gone(Exception):
    """The daemon went away during a call."""


class Client(threading.Thread):
    """Does what kubelet does with one pod after another, and remembers what it was told.  After the daemon's end its
    `told` is compared with what the next daemon says."""

    def __init__(self, test, number, image):
        super().__init__(daemon=True)
        self.test, self.number, self.image = test, number, image
        self.cri, self.turn, self.ended = cri.Cri(), 0, False
        self.problem = None
        self.forget()

    def forget(self):
        self.pod = None                 # id, once told
        self.containers = {}            # name -> [id, state told, started_at]
        self.asked = None               # (method, name) under way when the daemon went

    def call(self, method, name='', **fields):
        self.asked = (method, name)
        try:
            answer = getattr(self.cri, method)(**fields)
        except grpc.RpcError as e:
            if e.code() == cri.Code.UNAVAILABLE:
                raise Gone from e
            raise RuntimeError(f'{method} {name}: {e.code().name}: {e.details()}') from e
        self.asked = None
        return answer

    def pod_config(self):
        name = f'client-{self.number}-{self.turn}'
        # Each client's pods have the same host ports, one after the other.
        port = 30100 + int(self.number.rpartition('-')[2])
        ports = [{'protocol': protocol, 'container_port': 80, 'host_port': port} for protocol in (0, 1)]
        return {'port_mappings': ports, 'metadata': {'name': name, 'namespace': 'chaos', 'uid': f'{SEED}-{name}', 'attempt': 0},
                'log_directory': f'{self.test.logs}/{name}', 'linux': {}}

    def container_request(self, name):
        script = TASK if name == 'task' else SERVICE
        return {'pod_sandbox_id': self.pod, 'sandbox_config': self.pod_config(), 'config': {
            'metadata': {'name': name}, 'image': {'image': self.image}, 'command': ['/bin/sh', '-c', script],
            'log_path': f'{name}.log', 'linux': {},
            'mounts': [{'container_path': '/volume', 'readonly': True, 'image': {'image': self.image}}]}}

    def make(self, name):
        made = self.call('CreateContainer', name, **self.container_request(name)).container_id
        self.containers[name] = [made, 'CREATED', 0]
        self.call('StartContainer', name, container_id=made)
        self.containers[name][1] = 'STARTED'
        self.containers[name][2] = self.call('ContainerStatus', name, container_id=made).status.started_at

    def one_pod(self):
        self.pod = self.call('RunPodSandbox', config=self.pod_config()).pod_sandbox_id
        self.make('service')
        self.make('task')
        service, task = self.containers['service'][0], self.containers['task'][0]
        words = self.call('ExecSync', 'service', container_id=service, cmd=['sh', '-c', 'sleep 0.1; echo hi'])
        if words.stdout != b'hi\n':
            raise RuntimeError(f'ExecSync said {words}')
        self.call('StopContainer', 'service', container_id=service, timeout=20 if self.turn % 2 else 0)
        self.containers['service'][1] = 'EXITED'
        self.call('RemoveContainer', 'task', container_id=task)
        del self.containers['task']
        self.call('StopPodSandbox', pod_sandbox_id=self.pod)
        self.call('RemovePodSandbox', pod_sandbox_id=self.pod)
        self.forget()

    def run(self):
        try:
            while not self.ended:
                self.turn += 1
                self.forget()
                self.one_pod()
        except Gone:
            pass
        except Exception as e:  # pylint: disable=broad-except
            self.problem = e
        self.cri.channel.close()

    # After it: with the next daemon.

    def compare(self, api):
        """What was told must be so, but for what the call without an answer may have done."""
        fail = self.test.fail
        method, name = self.asked or (None, None)
        if self.pod is None:
            return
        pods = {p.id: p for p in api.ListPodSandbox().items}
        if self.pod not in pods:
            if method != 'RemovePodSandbox':
                fail(f'pod {self.pod} is gone, during {self.asked}')
            return
        if method not in ('StopPodSandbox', 'RemovePodSandbox') and pods[self.pod].state != cri.api().SANDBOX_READY:
            fail(f'pod {self.pod} is not ready, during {self.asked}')
        listed = {c.id for c in api.ListContainers(filter={'pod_sandbox_id': self.pod}).containers}
        for key, (made, told, started_at) in self.containers.items():
            mine = name == key or method == 'RemovePodSandbox'
            if made not in listed:
                if not (mine and method in ('RemoveContainer', 'RemovePodSandbox')):
                    fail(f'container {key} {made} is gone, during {self.asked}')
                continue
            status = api.ContainerStatus(container_id=made).status
            state = cri.api().ContainerState.Name(status.state).removeprefix('CONTAINER_')
            allowed = {'CREATED': {'CREATED'}, 'STARTED': {'RUNNING'}, 'EXITED': {'EXITED'}}[told]
            if key == 'task' and told == 'STARTED' or mine and method == 'StartContainer' and key == 'task':
                allowed = allowed | {'RUNNING', 'EXITED'}
            if mine and method == 'StartContainer':
                allowed = allowed | {'RUNNING'}
            if mine and method == 'StopContainer' or method in ('StopPodSandbox', 'RemovePodSandbox'):
                allowed = allowed | {'EXITED'}
            if state not in allowed:
                fail(f'container {key} {made} is {state} ({status.reason}, {status.exit_code}: {status.message}), '
                     f'was told {told}, during {self.asked}')
            if started_at and status.started_at != started_at:
                fail(f'container {key} {made} was started again, during {self.asked}')
            if state == 'EXITED' and key == 'task' and method not in ('StopPodSandbox', 'RemovePodSandbox') and status.exit_code != 7:
                fail(f'the task ended with {status.exit_code} ({status.reason}: {status.message}), during {self.asked}')

    def go_on(self, api):
        """Repeats the call without an answer, and leads the pod to its end."""
        self.cri = api
        method, name = self.asked or (None, None)
        if self.pod is None:
            if method != 'RunPodSandbox':
                return
            self.pod = self.call('RunPodSandbox', config=self.pod_config()).pod_sandbox_id
        if method == 'CreateContainer':
            self.make(name)
        elif method == 'StartContainer':
            made = self.containers[name][0]
            if self.call('ContainerStatus', container_id=made).status.state == cri.api().CONTAINER_CREATED:
                self.call('StartContainer', name, container_id=made)
        if method in ('CreateContainer', 'StartContainer', 'ExecSync') and name in self.containers:
            self.work(name)
        self.call('StopPodSandbox', pod_sandbox_id=self.pod)
        self.call('RemovePodSandbox', pod_sandbox_id=self.pod)

    def work(self, name):
        made = self.containers[name][0]
        if name == 'task':
            cri.wait_until(lambda: self.call('ContainerStatus', container_id=made).status.exit_code == 7, what='the exit of the task')
        elif self.call('ExecSync', container_id=made, cmd=['echo', 'again']).stdout != b'again\n':
            raise RuntimeError('no exec after it')


class Puller(threading.Thread):
    """Pulls an image of its own and removes it."""

    def __init__(self, image):
        super().__init__(daemon=True)
        self.image, self.cri, self.ended, self.problem = image, cri.Cri(), False, None

    def run(self):
        try:
            while not self.ended:
                ref = self.cri.PullImage(image={'image': self.image}).image_ref
                if not self.cri.ImageStatus(image={'image': ref}).image.size:
                    raise RuntimeError('the image that was pulled is not there')
                self.cri.RemoveImage(image={'image': ref})
        except grpc.RpcError as e:
            if e.code() != cri.Code.UNAVAILABLE:
                self.problem = e
        except Exception as e:  # pylint: disable=broad-except
            self.problem = e
        self.cri.channel.close()


class Chaos(running.Running):
    def start_daemon(self, kill_at=None):
        """Starts the daemon anew, to be killed at a stage; systemd's own try, a second later, is not waited for."""
        if kill_at:
            cri.systemctl('set-environment', f'USERPOD_KILL_AT={kill_at}')
        else:
            cri.systemctl('unset-environment', 'USERPOD_KILL_AT')
        cri.systemctl('reset-failed', running.DAEMON, running.SOCKET, running.NODE, check=False)
        cri.systemctl('start', running.SOCKET)
        cri.systemctl('restart', running.DAEMON)

    def kill_daemon(self, number):
        """The main process, or the daemon proper that is its child."""
        main = running.main_pid()
        if not main:
            return
        victim = main
        if number % 2:
            children = cri.run('pgrep', '-P', str(main), check=False).split()
            victim = int(children[0]) if children else main
        try:
            os.kill(victim, 9)
        except ProcessLookupError:
            pass

    def alive(self):
        return cri.systemctl('show', '-P', 'ActiveState', running.DAEMON) == 'active'

    def round(self, number, stage, image):
        kill_at = f'{stage}:{self.random.randint(1, 3)}' if stage else None
        self.start_daemon(kill_at)
        clients = [Client(self, f'{number}-{i}', image) for i in range(CLIENTS)]
        puller = Puller(f'{cri.REGISTRY}/test/busybox:2')
        threads = [*clients, puller]
        for t in threads:
            t.start()
        if stage:
            end = time.monotonic() + (60 if cri.SANITIZE else 20)
            while time.monotonic() < end and all(t.is_alive() for t in threads):
                time.sleep(0.02)
        else:
            time.sleep(self.random.uniform(0, 1.5))
        self.kill_daemon(number)
        for t in threads:
            t.ended = True
        for t in threads:
            t.join(60)
            self.assertFalse(t.is_alive(), f'{t.name} hangs after the kill')
            if t.problem:
                raise t.problem
        self.start_daemon()
        with cri.Cri() as api:
            for c in clients:
                c.compare(api)
            self.check_witness(api)
            for c in clients:
                c.go_on(api)
            for pod in api.ListPodSandbox().items:
                if pod.id not in self.configs:
                    api.RemovePodSandbox(pod_sandbox_id=pod.id)
            # The next pull takes what was complete, and with its image all of it goes.
            api.RemoveImage(image={'image': api.PullImage(image={'image': puller.image}).image_ref})
        self.check_nothing_left()

    def run_round(self, driver, number, stage, began):
        with self.subTest(round=number, stage=stage):
            begin = time.time()
            try:
                self.round(number, stage, self.image)
            except Exception:
                # At once, with the daemon's own words: a run is long.
                traceback.print_exc()
                print(cri.run('journalctl', '--user', '--no-pager', f'--since=@{begin}', '-o', 'short-precise', check=False), flush=True)
                raise
        if number % 25 == 24:
            print(f'{driver}: {number + 1} rounds in {time.time() - began:.0f} s', flush=True)

    def remove_all(self):
        for pod in self.cri.ListPodSandbox().items:
            self.cri.RemovePodSandbox(pod_sandbox_id=pod.id)

    def check_witness(self, api):
        for made, before in self.witnesses.items():
            status = api.ContainerStatus(container_id=made).status
            self.assertEqual(status, before, 'a container that nobody touched has changed')

    def check_nothing_left(self):
        out = subprocess.run(['/usr/bin/python3', ORACLE, 'check', '--node', str(self.node), '--wait', '10',
                              '--except', 'stray', self.snapshot], capture_output=True, text=True, check=False)
        self.assertIn(out.returncode, (0, 1), out.stderr)
        # A shell that sleeps has a child now, and none then.
        left = [line for line in out.stdout.splitlines() if not ('process: ' in line and any(w in line for w in self.witnesses))]
        self.assertEqual(left, [])

    def node_pid(self):
        with open(f'{cri.RUNTIME_DIR}/userpod/node/holder.json', encoding='utf-8') as f:
            return json.load(f)['pid']

    def hits(self, since):
        """How often the daemon was killed at each stage, by the journal; it never ended otherwise."""
        lines = cri.run('journalctl', '--user', '-o', 'json', '--no-pager', f'--since=@{since}', check=False).split('\n')
        entries = [json.loads(line) for line in lines if 'USERPOD_KILLED_AT' in line or 'killed by signal' in line]
        crashes = [m for m in (str(e['MESSAGE']) for e in entries) if re.search(r'the daemon was killed by signal (?!9$)', m)]
        self.assertEqual(crashes, [])
        return collections.Counter(e['USERPOD_KILLED_AT'] for e in entries if 'USERPOD_KILLED_AT' in e)

    def chaos(self, driver, rounds):
        self.enterContext(running.storage_driver(driver))
        self.random = random.Random(SEED)
        print(f'{driver}: {rounds} rounds, USERPOD_CHAOS_SEED={SEED}', flush=True)
        self.addCleanup(self.remove_all)
        self.addCleanup(cri.systemctl, 'unset-environment', 'USERPOD_KILL_AT')
        self.start_daemon()
        self.connect()
        pod = self.pod('witness')
        made = [self.container(pod, WITNESS, f'witness-{i}') for i in range(2)]
        for i in range(2):
            cri.wait_until(lambda i=i: self.texts('witness', f'witness-{i}'), what='the first line')
        self.witnesses = {c: self.status(c) for c in made}
        self.node = self.node_pid()
        self.snapshot = f'{self.logs}/snapshot'
        subprocess.run(['/usr/bin/python3', ORACLE, 'snapshot', '--node', str(self.node), self.snapshot], check=True)
        began, wanted = int(time.time()), stages(driver)
        # Every stage in turn, and a quarter as many kills at random times.
        order = wanted + [None] * (len(wanted) // 4)
        self.random.shuffle(order)
        for number in range(rounds):
            self.run_round(driver, number, order[number % len(order)], began)
        # A stage may have been missed: the kill came first, or the load had passed.
        for number in range(rounds, rounds * 3 // 2):
            hits = self.hits(began)
            rare = [s for s in wanted if hits[s] < LEAST_HITS]
            if not rare:
                break
            self.run_round(driver, number, rare[0], began)
        hits = self.hits(began)
        print(f'{driver}: {sum(hits.values())} kills at stages: ' + ', '.join(f'{s} {hits[s]}' for s in wanted), flush=True)
        self.assertEqual([s for s in wanted if hits[s] < LEAST_HITS], [], 'stages that were not hit often enough')
        self.connect()
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        for i in range(2):
            numbers = [int(text) for text in self.texts('witness', f'witness-{i}')]
            self.assertEqual(numbers, list(range(len(numbers))))
            print(f'{driver}: witness {i} wrote {len(numbers)} lines, none lost', flush=True)

    def test_overlay(self):
        self.chaos('overlay', ROUNDS)

    def test_fuse_overlayfs(self):
        self.chaos('fuse-overlayfs', ROUNDS if cri.LONG else ROUNDS // 3)

    def test_copy(self):
        self.chaos('copy', ROUNDS if cri.LONG else ROUNDS // 3)


if __name__ == '__main__':
    running.main()
