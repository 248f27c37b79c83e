#!/usr/bin/python3
"""Many containers and pods at once: made, listed, stopped and removed; with --long, 500 pods.

The quotas of one user that they take are printed, and when it breaks the one that ran short is named."""
import collections
import concurrent.futures
import os
import time

import grpc

import cri
import running

CONTAINERS = 140 if cri.SANITIZE else 300     # lists of more than 128 are read by several threads
PODS = 10 if cri.SANITIZE else 500 if cri.LONG else 60
NAMESPACES = ('net', 'ipc', 'uts', 'mnt', 'pid', 'cgroup')
AT_ONCE = 8
# The least processor for the most containers; ends at once at its stop signal.
SCRIPT = 'trap "exit 0" TERM; echo up; sleep 3600 & wait'
SERVER = 'trap "exit 0" TERM; echo up; while :; do nc -l -p 7777 -e echo served; done & wait'


def read(path):
    try:
        with open(path, encoding='utf-8') as f:
            return f.read().strip()
    except OSError:
        return ''


def own_processes():
    """Host pids of the node and of the daemon, by their cgroups."""
    tops = ['/sys/fs/cgroup' + cri.systemctl('show', '-P', 'ControlGroup', unit) for unit in (running.NODE, running.DAEMON)]
    return [int(pid) for top in tops for path, _, _ in os.walk(top) for pid in read(f'{path}/cgroup.procs').split()]


def open_files(pids, start):
    """Open files of these processes whose links begin so, as (pid, descriptor, link)."""
    for pid in pids:
        try:
            for fd in os.listdir(f'/proc/{pid}/fd'):
                link = os.readlink(f'/proc/{pid}/fd/{fd}')
                if link.startswith(start):
                    yield pid, fd, link
        except OSError:
            continue


def limit_of(pid, name):
    """A hard limit of a process, as /proc/PID/limits has it."""
    line = next(line for line in read(f'/proc/{pid}/limits').splitlines() if line.startswith(name))
    value = line[len(name):].split()[1]
    return 1 << 40 if value == 'unlimited' else int(value)


def sysctl(name):
    return int(read(f'/proc/sys/{name.replace(".", "/")}') or 1 << 40)


def quotas():
    """What one uid may have in all, as {name: (used, limit)}; but for keys what userpod's own processes have."""
    pids = own_processes()
    daemon = next(pid for pid in pids if read(f'/proc/{pid}/comm') == 'userpodd-inner')
    tasks = sum(len(os.listdir(f'/proc/{pid}/task')) for pid in pids if os.path.exists(f'/proc/{pid}/task'))
    found = {
        'tasks (kernel.threads-max)': (tasks, sysctl('kernel.threads-max')),
        'tasks (LimitNPROC)': (tasks, limit_of(daemon, 'Max processes')),
        'descriptors of the daemon (LimitNOFILE)': (len(os.listdir(f'/proc/{daemon}/fd')), limit_of(daemon, 'Max open files')),
        'mounts of the node (fs.mount-max)': (len(read(f'/proc/{daemon}/mountinfo').splitlines()), sysctl('fs.mount-max')),
        **{f'user.max_{kind}_namespaces': (namespaces(pids, kind), sysctl(f'user.max_{kind}_namespaces')) for kind in NAMESPACES},
        'fs.inotify.max_user_instances': (len(list(open_files(pids, 'anon_inode:inotify'))), sysctl('fs.inotify.max_user_instances')),
        # Each pipe has sixteen pages until the limit is reached, and two after it.
        'fs.pipe-user-pages-soft': (16 * len({link for *_, link in open_files(pids, 'pipe:')}), sysctl('fs.pipe-user-pages-soft')),
    }
    for line in read('/proc/key-users').splitlines():
        uid, _, fields = line.partition(':')
        if int(uid) == os.getuid():         # usage, made/instantiated, keys/limit, bytes/limit
            keys, size = fields.split()[2:4]
            found['kernel.keys.maxkeys'] = tuple(map(int, keys.split('/')))
            found['kernel.keys.maxbytes'] = tuple(map(int, size.split('/')))
    return found


def namespaces(pids, kind):
    """How many of this kind they are in: those of an ended container or an empty pod are not counted."""
    found = set()
    for pid in pids:
        try:
            found.add(os.readlink(f'/proc/{pid}/ns/{kind}'))
        except OSError:
            continue
    return len(found)


def timed(what, count, begin):
    took = time.monotonic() - begin
    print(f'{what}: {count} in {took:.2f} s, {took / count * 1000:.1f} ms each', flush=True)


class Many(running.Running):
    def step(self, what, call, items):
        """call(item) for all, some at once; a failure tells the quotas."""
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            futures = [pool.submit(call, item) for item in items]
            concurrent.futures.wait(futures)
        errors = [f.exception() for f in futures if f.exception()]
        if errors:
            texts = collections.Counter(e.details() if isinstance(e, grpc.RpcError) else repr(e) for e in errors)
            used = ', '.join(f'{n} {u} of {m}' for n, (u, m) in quotas().items())
            self.fail(f'{what}: {len(errors)} of {len(futures)} failed; {used}; {texts.most_common(5)}')
        timed(what, len(futures), begin)
        return [f.result() for f in futures]

    def state_of_all(self, state):
        got = self.cri.ListContainers(filter={'state': {'state': getattr(cri.api(), f'CONTAINER_{state}')}}).containers
        return {c.id for c in got}

    def assert_all(self, state, containers):
        others = sorted(set(containers) - self.state_of_all(state))
        self.assertFalse(others, f'{len(others)} of {len(containers)} are not {state}, as {self.status(others[0]) if others else ""}')

    def list_all(self, method, field, expected):
        times = []
        for _ in range(20):
            begin = time.monotonic()
            listed = getattr(getattr(self.cri, method)(), field)
            times.append((time.monotonic() - begin) * 1000)
        self.assertEqual({one.id for one in listed}, set(expected))
        print(f'{method} of {len(expected)}: {sorted(times)[10]:.1f} ms (p50)', flush=True)

    def assert_figures(self):
        """Of each container its own, in the order of the other list."""
        listed = [c.id for c in self.cri.ListContainers().containers]
        stats = self.cri.ListContainerStats().stats
        self.assertEqual([s.attributes.id for s in stats], listed)
        self.assertTrue(all(s.cpu.usage_core_nano_seconds.value > 0 for s in stats))
        for one in stats[::10]:
            later = self.cri.ContainerStats(container_id=one.attributes.id).stats
            self.assertEqual(later.attributes, one.attributes)
            self.assertGreaterEqual(later.cpu.usage_core_nano_seconds.value, one.cpu.usage_core_nano_seconds.value)
            self.assertLess(later.cpu.usage_core_nano_seconds.value - one.cpu.usage_core_nano_seconds.value, 10**9)

    def compare(self, before, count):
        short = []
        for name, (used, limit) in quotas().items():
            first = before.get(name, (0,))[0]
            enough = f'for {(limit - first) * count // (used - first)} of them' if used > first else 'whatever their number'
            print(f'{name}: {used} of {limit}, {first} before: enough {enough}', flush=True)
            if used > limit * 0.9:
                short.append(f'{name}: {used} of {limit}')
        print('short: ' + ('; '.join(short) or 'none'), flush=True)

    def test_containers(self):
        before, count = quotas(), CONTAINERS // 10
        pods = self.step('pods made', lambda i: self.pod(f'pod-{i}'), range(count))
        places = [(pod, i) for pod in pods for i in range(CONTAINERS // count)]
        self.assertEqual(len({self.pod_status(pod).network.ip for pod in pods}), count)
        made = self.step('containers made and started', lambda p: self.container(p[0], SCRIPT, f'c{p[1]}'), places)
        self.assertEqual(len(set(made)), CONTAINERS)
        self.list_all('ListContainers', 'containers', made)
        self.assert_all('RUNNING', made)
        self.assert_figures()
        for i in (0, count // 2, count - 1):
            self.assertEqual(len(self.cri.ListContainers(filter={'pod_sandbox_id': pods[i]}).containers), CONTAINERS // count)
            self.wait_for_line('up', pod=f'pod-{i}', name='c0')
        # One of them still does what one alone does.
        self.assertEqual(self.cri.ExecSync(container_id=made[-1], cmd=['echo', 'here']).stdout, b'here\n')
        self.compare(before, CONTAINERS)
        self.step('containers stopped', lambda c: self.cri.StopContainer(container_id=c, timeout=30), made)
        cri.wait_until(lambda: not self.state_of_all('RUNNING'), what='no container runs')
        self.assert_all('EXITED', made)
        self.step('containers removed', lambda c: self.cri.RemoveContainer(container_id=c), made)
        self.assertEqual(list(self.cri.ListContainers().containers), [])
        self.step('pods stopped', lambda p: self.cri.StopPodSandbox(pod_sandbox_id=p), pods)
        self.step('pods removed', lambda p: self.cri.RemovePodSandbox(pod_sandbox_id=p), pods)
        self.assertEqual(list(self.cri.ListPodSandbox().items), [])

    def test_pods(self):
        """One container each, as most pods of a cluster are."""
        before = quotas()
        pods = self.step('pods made', lambda i: self.pod(f'pod-{i}'), range(PODS))
        self.assertEqual(len({self.pod_status(pod).network.ip for pod in pods}), PODS)
        made = self.step('containers made and started', lambda pod: self.container(pod, SERVER), pods)
        self.list_all('ListPodSandbox', 'items', pods)
        self.list_all('ListContainers', 'containers', made)
        self.assert_all('RUNNING', made)
        for i in (0, PODS // 2, PODS - 1):
            self.wait_for_line('up', pod=f'pod-{i}')
        first = self.pod_status(pods[0]).network.ip
        self.assertEqual(self.cri.ExecSync(container_id=made[-1], cmd=['nc', '-w', '5', first, '7777']).stdout, b'served\n')
        self.compare(before, PODS)
        begin = time.monotonic()
        cri.systemctl('restart', running.DAEMON)
        self.connect()
        self.assert_all('RUNNING', made)
        timed('taken up by a new daemon', PODS, begin)
        self.step('pods stopped', lambda p: self.cri.StopPodSandbox(pod_sandbox_id=p), pods)
        self.assert_all('EXITED', made)
        self.step('pods removed', lambda p: self.cri.RemovePodSandbox(pod_sandbox_id=p), pods)
        self.assertEqual((list(self.cri.ListPodSandbox().items), list(self.cri.ListContainers().containers)), ([], []))


if __name__ == '__main__':
    running.main()
