#!/usr/bin/python3
"""Thousands of calls at random, right and wrong ones, from many clients, while the daemon restarts and is killed: every
call gets an answer that fits it, the daemon never ends by itself, and in the end nothing is left.

USERPOD_SOAK_CALLS sets their number with each storage driver, USERPOD_SOAK_SEED repeats a run (as far as threads do)."""
import collections
import os
import random
import re
import signal
import subprocess
import threading
import time

import grpc

import cri
import running

CALLS = int(os.environ.get('USERPOD_SOAK_CALLS') or (20000 if cri.LONG else 200 if cri.SANITIZE else 1000))
SEED = int(os.environ.get('USERPOD_SOAK_SEED') or time.time())
CLIENTS = 8
RESTART_EACH = 100
SCRIPTS = ['trap "exit 0" TERM; sleep 3600 & wait', 'exit 3', 'echo words; sleep 0.2', 'kill -9 $$', '/no/such/program',
           'sleep 3600']
ORACLE = f'{cri.ROOT}/tests/oracle'
C = cri.Code
# What a call may be answered, beside OK: its own mistakes, an object that another client has ended, and around a
# restart the end of the connection.  UNKNOWN is what the tools say: a program that cannot be started, an exec that met
# the end of its container.
ALLOWED = {C.INVALID_ARGUMENT, C.NOT_FOUND, C.FAILED_PRECONDITION, C.ALREADY_EXISTS, C.UNIMPLEMENTED, C.DEADLINE_EXCEEDED,
           C.UNAVAILABLE, C.CANCELLED}
MAY_BE_UNKNOWN = {'ExecSync', 'StartContainer', 'CreateContainer', 'PullImage', 'UpdateContainerResources', 'ReopenContainerLog'}


class Caller(threading.Thread):
    def __init__(self, test, number, count):
        super().__init__(daemon=True)
        self.test, self.count, self.number = test, count, number
        self.random = random.Random(SEED * 100 + number)
        self.api = cri.Cri()
        self.answers, self.wrong = collections.Counter(), []

    def some_id(self, known):
        """One of the known ids, the beginning of one, or nonsense."""
        kind = self.random.random()
        if known and kind < 0.8:
            return self.random.choice(known)
        if known and kind < 0.87:
            return self.random.choice(known)[:self.random.choice((1, 8, 13, 63))]
        return self.random.choice(('', 'x', '../..', '0' * 64, 'f' * 65, 'é', os.urandom(32).hex(), 'a\0b', ' '))

    def pod_config(self):
        name = f'soak-{self.random.randrange(12)}'
        config = {'metadata': {'name': name, 'namespace': 'soak', 'uid': f'{SEED}-{name}', 'attempt': self.random.randrange(2)},
                  'log_directory': f'{self.test.logs}/{name}', 'linux': {}}
        wrong = self.random.randrange(25)
        if wrong == 0:
            config['metadata'] = {}
        elif wrong == 1:
            config['log_directory'] = 'relative/../..'
        elif wrong == 2:
            config['hostname'] = 'x' * 300
        elif wrong == 3:
            config['linux'] = {'sysctls': {'kernel.panic': '1'}}
        elif wrong == 4:
            config['linux'] = {'cgroup_parent': '/../../etc'}
        return config

    def container_config(self):
        config = {'metadata': {'name': f'c{self.random.randrange(4)}'}, 'image': {'image': self.test.image},
                  'command': ['/bin/sh', '-c', self.random.choice(SCRIPTS)], 'log_path': f'c{self.random.randrange(4)}.log', 'linux': {}}
        wrong = self.random.randrange(25)
        if wrong == 0:
            config['image'] = {'image': 'registry.example/not/here:1'}
        elif wrong == 1:
            config['envs'] = [{'key': 'BAD', 'value': b'\xff\xfe'}]
        elif wrong == 2:
            config['command'] = ['/no/such/program']
        elif wrong == 3:
            config['log_path'] = '../../../escape'
        elif wrong == 4:
            config['linux'] = {'security_context': {'run_as_user': {'value': 4_000_000_000}}}
        elif wrong == 5:
            config['mounts'] = [{'container_path': 'relative', 'host_path': '/'}]
        elif wrong == 6:
            config['linux'] = {'resources': {'hugepage_limits': [{'page_size': '2MB', 'limit': 1 << 21}]}}
        return config

    def one(self):
        """A method and its fields."""
        r, pods, containers = self.random, self.test.pods, self.test.containers
        method = r.choices(
            ('RunPodSandbox', 'StopPodSandbox', 'RemovePodSandbox', 'PodSandboxStatus', 'ListPodSandbox', 'CreateContainer',
             'StartContainer', 'StopContainer', 'RemoveContainer', 'ContainerStatus', 'ListContainers', 'ExecSync', 'PullImage',
             'ImageStatus', 'RemoveImage', 'Status', 'ReopenContainerLog', 'UpdateContainerResources', 'ImageFsInfo'),
            (10, 4, 3, 4, 3, 14, 14, 6, 4, 6, 3, 8, 2, 2, 1, 2, 2, 2, 1))[0]
        if method == 'RunPodSandbox':
            return method, {'config': self.pod_config(), 'runtime_handler': r.choice(('', '', '', 'crun', 'nonsense'))}
        if method in ('StopPodSandbox', 'RemovePodSandbox', 'PodSandboxStatus'):
            return method, {'pod_sandbox_id': self.some_id(pods)}
        if method == 'ListPodSandbox':
            return method, {'filter': {'id': self.some_id(pods)}} if r.random() < 0.5 else {}
        if method == 'CreateContainer':
            return method, {'pod_sandbox_id': self.some_id(pods), 'config': self.container_config(), 'sandbox_config': self.pod_config()}
        if method == 'StopContainer':
            return method, {'container_id': self.some_id(containers), 'timeout': r.choice((0, 1, 2, -5, 1 << 62))}
        if method == 'ExecSync':
            return method, {'container_id': self.some_id(containers), 'timeout': r.choice((0, 1, 5)),
                            'cmd': r.choice((['echo', 'x'], ['sh', '-c', 'sleep 1.2'], ['/nothing'], [], [''], ['sh', '-c', 'exit 9']))}
        if method == 'ListContainers':
            return method, {'filter': {'pod_sandbox_id': self.some_id(pods)}} if r.random() < 0.5 else {}
        if method in ('PullImage', 'ImageStatus', 'RemoveImage'):
            return method, {'image': {'image': r.choice((f'{cri.REGISTRY}/test/busybox:2', f'{cri.REGISTRY}/not/there:1',
                                                         'Not A Reference', '', 'sha256:' + '0' * 64))}}
        if method == 'UpdateContainerResources':
            return method, {'container_id': self.some_id(containers), 'linux': {'memory_limit_in_bytes': r.choice((0, -7, 1 << 26))}}
        if method in ('Status', 'ImageFsInfo'):
            return method, {}
        return method, {'container_id': self.some_id(containers)}

    def run(self):
        for _ in range(self.count):
            method, fields = self.one()
            deadline = self.random.choice((0.005, 0.05)) if self.random.random() < 0.1 else 60
            began = time.monotonic()
            try:
                answer = getattr(self.api, method)(deadline=deadline, **fields)
                code, text = C.OK, ''
            except grpc.RpcError as e:
                answer, code, text = None, e.code(), e.details()
            except (ValueError, TypeError, UnicodeEncodeError):      # the client library refuses to send it
                continue
            self.answers[code.name] += 1
            self.test.count_call()
            took = time.monotonic() - began
            if code not in ALLOWED | {C.OK} and not (code == C.UNKNOWN and method in MAY_BE_UNKNOWN) or code not in (C.OK, C.UNIMPLEMENTED) and not text \
                    or took > 45 and code != C.OK or code == C.DEADLINE_EXCEEDED and deadline == 60:
                self.wrong.append(f'{method} {fields}: {code.name} after {took:.1f} s: {text}')
            if code == C.UNAVAILABLE:
                time.sleep(0.1)
            if answer is not None and method == 'RunPodSandbox':
                self.test.pods.append(answer.pod_sandbox_id)
            if answer is not None and method == 'CreateContainer':
                self.test.containers.append(answer.container_id)
        self.api.channel.close()


class Soak(running.Running):
    def count_call(self):
        with self.lock:
            self.done += 1

    def restart(self, number):
        cri.systemctl('reset-failed', running.DAEMON, running.SOCKET, check=False)
        main = running.main_pid()
        if number % 2 and main:
            try:
                os.kill(main, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.kills += 1
        else:
            cri.systemctl('restart', running.DAEMON)

    def remove_all(self):
        for pod in self.cri.ListPodSandbox().items:
            self.cri.RemovePodSandbox(pod_sandbox_id=pod.id)

    def soak(self, driver, calls):
        self.enterContext(running.storage_driver(driver))
        self.connect()
        print(f'{driver}: {calls} calls, USERPOD_SOAK_SEED={SEED}', flush=True)
        self.pods, self.containers, self.done, self.kills, self.lock = [], [], 0, 0, threading.Lock()
        self.addCleanup(self.remove_all)
        snapshot = f'{self.logs}/snapshot'
        subprocess.run(['/usr/bin/python3', ORACLE, 'snapshot', snapshot], check=True)
        began = int(time.time())
        callers = [Caller(self, i, calls // CLIENTS) for i in range(CLIENTS)]
        for c in callers:
            c.start()
        restarts = 0
        while any(c.is_alive() for c in callers):
            time.sleep(0.05)
            if self.done >= (restarts + 1) * RESTART_EACH:
                self.restart(restarts)
                restarts += 1
        for c in callers:
            c.join()
        wrong = [w for c in callers for w in c.wrong]
        print(f'{self.done} calls, {restarts} restarts ({self.kills} by SIGKILL) in {time.time() - began:.0f} s: '
              f'{dict(sum((c.answers for c in callers), collections.Counter()))}', flush=True)
        self.assertEqual(wrong, [])
        self.connect()
        journal = cri.run('journalctl', '--user', '--no-pager', f'--since=@{began}', '-u', running.DAEMON, check=False)
        crashes = [line for line in journal.split('\n')
                   if re.search(r'killed by signal (?!9\b)|terminate called|Assertion|ERROR: AddressSanitizer|runtime error', line)]
        self.assertEqual(crashes, [])
        # Whatever is there can be ended, and then nothing is left of it.
        for pod in self.cri.ListPodSandbox().items:
            status = self.cri.PodSandboxStatus(pod_sandbox_id=pod.id).status
            self.assertEqual(status.id, pod.id)
        for c in self.cri.ListContainers().containers:
            self.cri.ContainerStatus(container_id=c.id)
        self.remove_all()
        self.assertEqual(list(self.cri.ListContainers().containers), [])
        self.cri.RemoveImage(image={'image': f'{cri.REGISTRY}/test/busybox:2'})
        out = subprocess.run(['/usr/bin/python3', ORACLE, 'check', '--wait', '10', '--except', 'stray', snapshot],
                             capture_output=True, text=True, check=False)
        self.assertEqual(out.returncode, 0, out.stdout + out.stderr)

    def test_overlay(self):
        self.soak('overlay', CALLS)

    def test_fuse_overlayfs(self):
        self.soak('fuse-overlayfs', CALLS if cri.LONG else CALLS // 4)

    def test_copy(self):
        self.soak('copy', CALLS if cri.LONG else CALLS // 4)


if __name__ == '__main__':
    running.main()
