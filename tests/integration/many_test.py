#!/usr/bin/python3
"""Many containers at once: made, listed, stopped and removed.  When it breaks, the quota that ran short is named."""
import collections
import concurrent.futures
import os
import time

import grpc

import cri
import running

COUNT = 30 if cri.SANITIZE else 300
PODS = COUNT // 10
AT_ONCE = 8
# The least processor for the most containers; ends at once at its stop signal.
SCRIPT = 'trap "exit 0" TERM; echo up; sleep 3600 & wait'


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


def quotas():
    """What one uid may have in all, as {name: (used, limit)}; inotify and pipes are userpod's own alone."""
    pids = own_processes()
    found = {
        'fs.inotify.max_user_instances': (len(list(open_files(pids, 'anon_inode:inotify'))), int(read('/proc/sys/fs/inotify/max_user_instances'))),
        # Each pipe has sixteen pages until the limit is reached, and two after it.
        'fs.pipe-user-pages-soft': (16 * len({link for *_, link in open_files(pids, 'pipe:')}), int(read('/proc/sys/fs/pipe-user-pages-soft'))),
    }
    for line in read('/proc/key-users').splitlines():
        uid, _, fields = line.partition(':')
        if int(uid) == os.getuid():         # usage, made/instantiated, keys/limit, bytes/limit
            keys, size = fields.split()[2:4]
            found['kernel.keys.maxkeys'] = tuple(map(int, keys.split('/')))
            found['kernel.keys.maxbytes'] = tuple(map(int, size.split('/')))
    return found


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

    def test_many(self):
        before = quotas()
        pods = self.step('pods made', lambda i: self.pod(f'pod-{i}'), range(PODS))
        places = [(pod, i) for pod in pods for i in range(COUNT // PODS)]
        self.assertEqual(len({self.pod_status(pod).network.ip for pod in pods}), PODS)
        made = self.step('containers made and started', lambda p: self.container(p[0], SCRIPT, f'c{p[1]}'), places)
        self.assertEqual(len(set(made)), COUNT)

        times = []
        for _ in range(20):
            begin = time.monotonic()
            listed = self.cri.ListContainers().containers
            times.append((time.monotonic() - begin) * 1000)
        self.assertEqual({c.id for c in listed}, set(made))
        print(f'ListContainers of {COUNT}: {sorted(times)[10]:.1f} ms (p50)', flush=True)
        self.assertEqual(set(made) - self.state_of_all('RUNNING'), set())
        for i in (0, PODS // 2, PODS - 1):
            self.assertEqual(len(self.cri.ListContainers(filter={'pod_sandbox_id': pods[i]}).containers), COUNT // PODS)
            self.wait_for_line('up', pod=f'pod-{i}', name='c0')
        # One of them still does what one alone does.
        self.assertEqual(self.cri.ExecSync(container_id=made[-1], cmd=['echo', 'here']).stdout, b'here\n')

        short = []
        for name, (used, limit) in quotas().items():
            first = before.get(name, (0,))[0]
            enough = f'for {(limit - first) * COUNT // (used - first)} containers' if used > first else 'whatever their number'
            print(f'{name}: {used} of {limit}, {first} before: enough {enough}', flush=True)
            if used > limit * 0.9:
                short.append(f'{name}: {used} of {limit}')
        print('short: ' + ('; '.join(short) or 'none'), flush=True)

        self.step('containers stopped', lambda c: self.cri.StopContainer(container_id=c, timeout=30), made)
        cri.wait_until(lambda: not self.state_of_all('RUNNING'), what='no container runs')
        self.assertEqual(self.state_of_all('EXITED'), set(made))
        self.step('containers removed', lambda c: self.cri.RemoveContainer(container_id=c), made)
        self.assertEqual(list(self.cri.ListContainers().containers), [])
        self.step('pods stopped', lambda p: self.cri.StopPodSandbox(pod_sandbox_id=p), pods)
        self.step('pods removed', lambda p: self.cri.RemovePodSandbox(pod_sandbox_id=p), pods)
        self.assertEqual(list(self.cri.ListPodSandbox().items), [])


if __name__ == '__main__':
    running.main()
