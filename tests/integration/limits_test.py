#!/usr/bin/python3
"""Limits of cpu, memory and processes: in force where their controllers are delegated, told where they are not.

Without controllers (tests/testbed/session on most machines) half of it is left out; tests/run's suite `uml` has them."""
import errno
import json
import os
import subprocess
import tempfile
import unittest

import cri
import running

MEBIBYTE = 1 << 20
MANAGER = ('/org/userpod1', 'org.userpod1.Manager')
GROW = 'dd if=/dev/zero of=/dev/null bs=100M count=1'     # killed at once
STAY = 'trap "exit 0" TERM; echo up; sleep 3600 & wait'


def read(path):
    with open(path, encoding='utf-8') as f:
        return f.read().strip()


def node_cgroup():
    return '/sys/fs/cgroup' + cri.systemctl('show', '-P', 'ControlGroup', running.NODE)


def controllers():
    """Those that a container may have."""
    cri.Cri().Version()
    return set(read(node_cgroup() + '/cgroup.subtree_control').split())


class Signals:
    """Signals of one name that userpod sends from now on."""

    def __init__(self, member):
        self.member = member
        self.file = tempfile.TemporaryFile(dir='/var/tmp')
        self.monitor = subprocess.Popen(['busctl', '--user', '--json=short', 'monitor', cri.BUS], stdout=self.file,
                                        stderr=subprocess.PIPE)
        self.monitor.stderr.readline()      # "Monitoring bus message stream."

    def seen(self):
        *whole, _ = os.pread(self.file.fileno(), MEBIBYTE, 0).split(b'\n')     # its position is busctl's
        return [m for m in map(json.loads, whole) if m.get('member') == self.member]

    def close(self):
        self.monitor.kill()
        self.monitor.wait()
        self.monitor.stderr.close()
        self.file.close()


class Limits(running.Running):
    def limited(self, script=STAY, name='main', up=True, start=True, **resources):
        made = self.container(self.pod(), script, name, start, linux={'resources': resources})
        if up:
            self.wait_for_line('up', name=name)
        return made

    def file(self, container, name):
        info = json.loads(self.cri.ContainerStatus(container_id=container, verbose=True).info['info'])
        return read(f'{node_cgroup()}{info["cgroup"]}/{name}')

    def files(self, container, *names):
        return [self.file(container, name) for name in names]

    def resources(self, container):
        return self.status(container).resources.linux

    def update(self, container, **resources):
        self.cri.UpdateContainerResources(container_id=container, linux=resources, deadline=30)

    def refused(self, code, words, call, *args, **fields):
        with self.assertRaises(cri.grpc.RpcError) as caught:
            call(*args, **fields)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertRegex(caught.exception.details(), words)

    def pod_info(self, pod):
        return json.loads(self.cri.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info['info'])

    def ended(self, container):
        cri.wait_until(lambda: self.state(container) == 'EXITED', timeout=60, what='the container\'s end')
        return self.status(container)


class Everywhere(Limits):
    def test_huge_pages(self):
        """kubelet sends a limit for each size, mostly 0."""
        container = self.limited(hugepage_limits=[{'page_size': '2MB', 'limit': 0}, {'page_size': '1GB', 'limit': 0}])
        self.assertEqual(len(self.resources(container).hugepage_limits), 0)
        self.update(container, hugepage_limits=[{'page_size': '2MB', 'limit': 0}])
        wanted = [{'page_size': '2MB', 'limit': 2 * MEBIBYTE}]
        self.refused(cri.Code.UNIMPLEMENTED, '2MB.*hugetlb', self.update, container, hugepage_limits=wanted)
        self.refused(cri.Code.UNIMPLEMENTED, '2MB.*hugetlb', self.limited, name='none', hugepage_limits=wanted)

    def test_states(self):
        self.refused(cri.Code.NOT_FOUND, 'no container', self.update, '0' * 64)
        over = self.limited('exit 3', up=False)
        self.ended(over)
        self.refused(cri.Code.FAILED_PRECONDITION, 'not created or running', self.update, over)

    def test_update_is_of_limits_only(self):
        """The score of a process that runs stays, as with other runtimes; annotations of an update are hints to others."""
        container = self.limited(oom_score_adj=900)
        before = self.status(container)
        self.cri.UpdateContainerResources(container_id=container, linux={'oom_score_adj': 950}, annotations={'hint': 'x'})
        self.assertEqual(self.status(container), before)
        info = json.loads(self.cri.ContainerStatus(container_id=container, verbose=True).info['info'])
        self.assertEqual(read(f'/proc/{info["pid"]}/oom_score_adj'), '900')

    def test_oom_score(self):
        """As wanted, but never below that of the user's own services."""
        pod = self.pod()
        low = self.container(pod, 'cat /proc/self/oom_score_adj', 'low', linux={'resources': {'oom_score_adj': -997}})
        high = self.container(pod, 'cat /proc/self/oom_score_adj', 'high', linux={'resources': {'oom_score_adj': 900}})
        for container, name in ((low, 'low'), (high, 'high')):
            self.ended(container)
            self.assertEqual(self.texts(name=name), [str(self.resources(container).oom_score_adj)])
        own = int(read('/proc/self/oom_score_adj'))
        self.assertEqual((self.resources(low).oom_score_adj, self.resources(high).oom_score_adj), (own, 900))


    def test_pod_with_given_cgroup(self):
        """Told after kubelet has written: it is kept and shown, and nothing is written."""
        pod = self.pod(linux={'cgroup_parent': '/kubepods/limits-test', 'overhead': {'cpu_shares': 100},
                              'resources': {'memory_limit_in_bytes': 64 * MEBIBYTE}})
        self.addCleanup(self.remove_cgroup, '/kubepods')
        self.cri.UpdatePodSandboxResources(pod_sandbox_id=pod, resources={'cpu_shares': 512, 'memory_limit_in_bytes': 4096})
        wanted = {'overhead': {'cpu_shares': 100}, 'resources': {'cpu_shares': 512, 'memory_limit_in_bytes': 4096}}
        for _ in range(2):
            info = self.pod_info(pod)
            self.assertEqual({key: info['config']['linux'][key] for key in wanted}, wanted)
            cri.systemctl('restart', running.DAEMON)
            self.connect()
        limit = f'{node_cgroup()}/kubepods/limits-test/memory.max'
        self.assertEqual(read(limit) if os.path.exists(limit) else 'max', 'max')
        self.refused(cri.Code.INVALID_ARGUMENT, 'resources.cpu_period is -1', self.cri.UpdatePodSandboxResources,
                     pod_sandbox_id=pod, resources={'cpu_period': -1})
        self.refused(cri.Code.NOT_FOUND, 'no pod', self.cri.UpdatePodSandboxResources, pod_sandbox_id='0' * 64)
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.cri.UpdatePodSandboxResources(pod_sandbox_id=pod, overhead={})

    @staticmethod
    def remove_cgroup(path):
        running.enter('sh', '-c', f'find /sys/fs/cgroup{path} -depth -type d -exec rmdir {{}} ";"', check=False)


class Without(Limits):
    """A limit whose controller is missing."""

    def test_create_warns_and_tells_the_truth(self):
        missing = {'cpu', 'memory', 'pids'} - controllers()
        condition = {c.type: c for c in self.cri.Status().status.conditions}['CgroupDelegation']
        self.assertFalse(condition.status)
        for word in (*missing, 'doctor'):
            self.assertIn(word, condition.message)
        container = self.limited(cpu_shares=512, cpu_quota=20000, cpu_period=100000, memory_limit_in_bytes=64 * MEBIBYTE,
                                 memory_swap_limit_in_bytes=64 * MEBIBYTE,
                                 unified={'memory.oom.group': '1', 'pids.max': '20', 'memory.high': 'max'})
        shown = self.resources(container)
        if 'cpu' in missing:
            self.assertEqual((shown.cpu_shares, shown.cpu_quota, shown.cpu_period), (0, 0, 0))
        if 'memory' in missing:
            self.assertEqual((shown.memory_limit_in_bytes, shown.memory_swap_limit_in_bytes), (0, 0))
        self.assertEqual({key for key in shown.unified if key.split('.')[0] in missing}, set())

        def warnings():
            out = cri.run('journalctl', '--user', '-o', 'json', '-p', 'warning', f'CONTAINER_ID={container}')
            return ' '.join(json.loads(line)['MESSAGE'] for line in out.splitlines())
        told = cri.wait_until(warnings, what='warnings in the journal')
        for field, controller in (('cpu_shares', 'cpu'), ('memory_limit_in_bytes', 'memory'), ('unified pids.max', 'pids')):
            if controller in missing:
                self.assertRegex(told, f'{field} has no effect: the {controller} controller is not delegated')

    def test_update_fails_by_name(self):
        container = self.limited()
        for controller, field in (('cpu', {'cpu_quota': 20000}), ('memory', {'memory_limit_in_bytes': 64 * MEBIBYTE}),
                                  ('pids', {'unified': {'pids.max': '20'}})):
            if controller not in controllers():
                self.refused(cri.Code.FAILED_PRECONDITION, f'the {controller} controller is not delegated.*doctor',
                             self.update, container, **field)
        self.assertEqual(self.resources(container), cri.api().LinuxContainerResources(
            oom_score_adj=self.resources(container).oom_score_adj))


    def test_pod_runs_and_its_update_fails(self):
        if 'memory' in controllers():
            self.skipTest('the memory controller is delegated')
        pod = self.pod(linux={'resources': {'memory_limit_in_bytes': 64 * MEBIBYTE}})
        told = cri.run('journalctl', '--user', '-o', 'cat', '-p', 'warning', f'POD_ID={pod}')
        self.assertIn('memory_limit_in_bytes has no effect: the memory controller is not delegated', told)
        before = self.pod_info(pod)
        self.refused(cri.Code.FAILED_PRECONDITION, 'the memory controller is not delegated', self.cri.UpdatePodSandboxResources,
                     pod_sandbox_id=pod, resources={'memory_limit_in_bytes': 96 * MEBIBYTE})
        self.assertEqual(self.pod_info(pod), before)


class With(Limits):
    """What the kernel enforces."""

    def test_create_and_update(self):
        container = self.limited(cpu_shares=512, cpu_quota=20000, cpu_period=50000, memory_limit_in_bytes=64 * MEBIBYTE,
                                 unified={'memory.high': str(48 * MEBIBYTE), 'memory.oom.group': '1', 'pids.max': '20'})
        names = ('cpu.weight', 'cpu.max', 'memory.max', 'memory.swap.max', 'memory.high', 'memory.oom.group', 'pids.max')
        self.assertEqual(self.files(container, *names),
                         ['20', '20000 50000', str(64 * MEBIBYTE), '0', str(48 * MEBIBYTE), '1', '20'])
        condition = {c.type: c for c in self.cri.Status().status.conditions}['CgroupDelegation']
        self.assertTrue(condition.status, condition.message)

        # What is not said stays.
        self.update(container, cpu_quota=30000, memory_limit_in_bytes=96 * MEBIBYTE, unified={'pids.max': '30'})
        cri.systemctl('restart', running.DAEMON)
        self.connect()
        shown = self.resources(container)
        self.assertEqual((shown.cpu_shares, shown.cpu_quota, shown.cpu_period, shown.memory_limit_in_bytes),
                         (512, 30000, 50000, 96 * MEBIBYTE))
        self.assertEqual(dict(shown.unified), {'memory.high': str(48 * MEBIBYTE), 'memory.oom.group': '1', 'pids.max': '30'})
        self.update(container, cpu_shares=1024, memory_swap_limit_in_bytes=100 * MEBIBYTE, unified={'memory.high': 'max'})
        self.assertEqual(self.files(container, *names),
                         ['39', '30000 50000', str(96 * MEBIBYTE), str(4 * MEBIBYTE), 'max', '1', '30'])
        self.update(container, cpu_quota=-1, cpu_shares=512)
        self.assertEqual(self.files(container, 'cpu.max', 'cpu.weight'), ['max 50000', '20'])
        self.assertEqual(self.texts(), ['up'])
        self.assertEqual(self.state(container), 'RUNNING')

        # All or nothing: each of these fails at its last part.
        before, shown = self.files(container, *names), self.resources(container)
        for words, bad in (('refuses', {'unified': {'pids.max': 'many'}}), ('no file pids.none', {'unified': {'pids.none': '1'}}),
                           ('below the .* in use', {'memory_limit_in_bytes': 4096}), ('negative|give a number', {'memory_limit_in_bytes': -1}),
                           ('below the .* in use', {'unified': {'memory.max': '4096'}}),
                           ('less than', {'memory_swap_limit_in_bytes': MEBIBYTE})):
            self.refused(cri.Code.INVALID_ARGUMENT, words, self.update, container, cpu_shares=2048, cpu_quota=10000, **bad)
            self.assertEqual(self.files(container, *names), before, bad)
            self.assertEqual(self.resources(container), shown, bad)

    def test_pod_in_a_cgroup_of_its_own(self):
        """The resources of its containers and its overhead together; all of an update or nothing."""
        pod = self.pod(linux={'resources': {'cpu_shares': 512, 'cpu_quota': 20000, 'cpu_period': 50000, 'memory_limit_in_bytes': 64 * MEBIBYTE},
                              'overhead': {'cpu_shares': 512, 'cpu_quota': 10000, 'cpu_period': 100000, 'memory_limit_in_bytes': 8 * MEBIBYTE}})
        names = ('cpu.weight', 'cpu.max', 'memory.max')
        path = node_cgroup() + self.pod_info(pod)['cgroup']

        def files():
            return [read(f'{path}/{name}') for name in names]
        self.assertEqual(files(), ['39', '25000 50000', str(72 * MEBIBYTE)])
        self.cri.UpdatePodSandboxResources(pod_sandbox_id=pod, overhead={'memory_limit_in_bytes': 16 * MEBIBYTE},
                                           resources={'cpu_shares': 512, 'memory_limit_in_bytes': 96 * MEBIBYTE})
        self.assertEqual(files(), ['20', '25000 50000', str(112 * MEBIBYTE)])
        before = self.pod_info(pod)
        self.container(pod, STAY, 'user')
        self.wait_for_line('up', name='user')
        for words, bad in (('refuses', {'cpu_shares': 1024, 'unified': {'pids.max': 'many'}}),
                           ('below the .* in use', {'cpu_shares': 1024, 'memory_limit_in_bytes': 1})):
            self.refused(cri.Code.INVALID_ARGUMENT, words, self.cri.UpdatePodSandboxResources, pod_sandbox_id=pod,
                         overhead={}, resources=bad)
            self.assertEqual((files(), self.pod_info(pod)), (['20', '25000 50000', str(112 * MEBIBYTE)], before))
        container = self.container(pod, f'exec {GROW.replace("100M", "200M")}')
        self.assertEqual(self.ended(container).reason, 'OOMKilled')

    def test_update_before_the_start(self):
        pod = self.pod()
        container = self.container(pod, STAY, start=False, linux={'resources': {'cpu_shares': 512}})
        self.update(container, cpu_shares=1024, memory_limit_in_bytes=64 * MEBIBYTE)
        self.cri.StartContainer(container_id=container)
        self.wait_for_line('up')
        self.assertEqual(self.files(container, 'cpu.weight', 'memory.max'), ['39', str(64 * MEBIBYTE)])

    def test_processes(self):
        script = 'i=0; while [ $i -lt 30 ]; do sleep 60 & i=$((i + 1)); done; echo all'
        container = self.limited(script, up=False, unified={'pids.max': '10'})
        self.ended(container)
        log = read(f'{self.logs}/pod/main.log')     # the shell writes its error in parts
        self.assertNotRegex(log, ' all$')
        self.assertIn(os.strerror(errno.EAGAIN), log)

    def test_out_of_memory(self):
        container = self.limited(f'exec {GROW}', up=False, memory_limit_in_bytes=20 * MEBIBYTE)
        status = self.ended(container)
        self.assertEqual((status.reason, status.exit_code), ('OOMKilled', 137))
        self.assertTrue(cri.bus_get(self.object_of(container), 'org.userpod1.Container', 'OomKilled'))

    @staticmethod
    def object_of(container):
        return next(path for path, interfaces in cri.bus_objects().items()
                    if interfaces.get('org.userpod1.Container', {}).get('Id') == container)

    def test_helper_out_of_memory(self):
        """The container goes on: its state is that of a running one, and the bus tells of each kill."""
        script = f'trap "" TERM; for i in 1 2; do {GROW}; echo "helper $i: $?"; while [ ! -e /tmp/go$i ]; do sleep 0.2; done; done'
        container = self.limited(script, up=False, start=False, memory_limit_in_bytes=20 * MEBIBYTE)
        signals = Signals('OomKilled')
        self.addCleanup(signals.close)
        self.cri.StartContainer(container_id=container)
        self.wait_for_line('helper 1: 137')
        cri.wait_until(lambda: len(signals.seen()) == 1, what='the signal OomKilled')
        self.assertEqual(signals.seen()[0]['path'], self.object_of(container))
        self.assertEqual((self.state(container), self.status(container).reason), ('RUNNING', ''))
        cri.systemctl('restart', running.DAEMON)
        self.connect()
        self.assertTrue(cri.bus_get(self.object_of(container), 'org.userpod1.Container', 'OomKilled'))
        self.cri.ExecSync(container_id=container, cmd=['touch', '/tmp/go1'])
        self.wait_for_line('helper 2: 137')
        cri.wait_until(lambda: len(signals.seen()) == 2, what='the signal of the second kill')
        # What kills it in the end is its stop.
        self.cri.StopContainer(container_id=container, timeout=0)
        status = self.ended(container)
        self.assertEqual((status.reason, status.exit_code), ('Error', 137))

    def test_inotify(self):
        """One instance for the daemon, one for the holder, which follows files of the host, none for the monitors."""
        pod = self.pod()
        for i in range(200 if cri.LONG else 10):
            self.container(pod, 'trap "exit 0" TERM; sleep 3600 & wait', f'c{i}')
        tops = ['/sys/fs/cgroup' + cri.systemctl('show', '-P', 'ControlGroup', unit) for unit in (running.NODE, running.DAEMON)]
        pids = [pid for top in tops for path, _, _ in os.walk(top) for pid in read(f'{path}/cgroup.procs').split()]
        found = []
        for pid in pids:
            try:
                found += [read(f'/proc/{pid}/comm') for fd in os.listdir(f'/proc/{pid}/fd')
                          if os.readlink(f'/proc/{pid}/fd/{fd}') == 'anon_inode:inotify']
            except OSError:
                continue
        self.assertIn('conmon', {read(f'/proc/{pid}/comm') for pid in pids if os.path.exists(f'/proc/{pid}/comm')})
        self.assertEqual(sorted(found), ['userpod-node', 'userpodd-inner'])
        errors = cri.run('journalctl', '--user', '-o', 'cat', '-t', 'conmon', '-p', 'err', check=False)
        self.assertNotRegex(errors, 'inotify|memory.events')


def load_tests(loader, tests, _):
    if not (os.path.exists(cri.SOCKET) and cri.REGISTRY):
        return tests
    have = {'cpu', 'memory', 'pids'} <= controllers()
    if not have:
        print('SKIP: limits in force: no cpu, memory and pids controllers are delegated here', flush=True)
    return unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in (Everywhere, With if have else Without))


if __name__ == '__main__':
    running.main()
