#!/usr/bin/python3
"""Figures under load, each between two readings of its source: the cgroup's files, /proc/PID/net/dev, du of the upper directory.

Memory and processes need their controllers: tests/run's suite `uml` has them, and leaves the rest, but for the
processor's time, to suites that are quicker."""
import json
import os
import time
import unittest

import cri
import limits_test
import running

MEBIBYTE = 1 << 20
NANOS = 10 ** 9
STAY = limits_test.STAY
STARTS = 'trap "exit 0" TERM; echo up; '
UML = os.environ.get('USERPOD_SLOW')
TRIES = 5 if UML else 20


def numbers(text):
    """Of lines of a name and a number."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def totals(text):
    """Of a pressure file: who -> microseconds."""
    return {line.split()[0]: int(line.rsplit('total=', 1)[1]) for line in text.splitlines()}


def thread_time(name):
    """Nanoseconds of processor time that the daemon's thread has used."""
    for pid in limits_test.read(f'/proc/{running.main_pid()}/task/{running.main_pid()}/children').split():
        for task in os.listdir(f'/proc/{pid}/task'):
            if limits_test.read(f'/proc/{pid}/task/{task}/comm') == name:
                return int(limits_test.read(f'/proc/{pid}/task/{task}/schedstat').split()[0])
    raise AssertionError(f'the daemon has no thread {name}')


class Stats(limits_test.Limits):
    def stats(self, container):
        return self.cri.ContainerStats(container_id=container).stats

    def pod_stats(self, pod):
        return self.cri.PodSandboxStats(pod_sandbox_id=pod).stats

    def path(self, container, name):
        info = json.loads(self.cri.ContainerStatus(container_id=container, verbose=True).info['info'])
        return f'{limits_test.node_cgroup()}{info["cgroup"]}/{name}'

    def pod_path(self, pod, name):
        return f'{limits_test.node_cgroup()}{self.pod_info(pod)["cgroup"]}/{name}'

    def pod_file(self, pod, name):
        return limits_test.read(self.pod_path(pod, name))

    def between(self, source, call, **least):
        """source() is a dict of what only grows: what call() tells under the same names is between two readings of it, each of
        many times, until all of it has grown by that much."""
        first, deadline, tries = source(), time.monotonic() + (240 if cri.SLOW else 60), 0
        grown = {}
        while tries < TRIES or any(grown[name] < least[name] for name in least):
            self.assertTrue(tries < TRIES or time.monotonic() < deadline, f'{grown}: nothing is shown without load')
            before = source()
            told = call()
            after = source()
            for name, value in told.items():
                self.assertLessEqual(before[name], value, name)
                self.assertLessEqual(value, after[name], name)
            grown = {name: after[name] - first[name] for name in first}
            tries += 1

    def du(self, container, part='upper'):
        """As root of the node, who sees all of it: bytes and inodes."""
        script = 'du -s --block-size=1 "$0"; du -s --inodes "$0"'
        bytes_, _, inodes, _ = running.enter('sh', '-c', script, f'{cri.DATA_DIR}/containers/{container}/{part}').split()
        return int(bytes_), int(inodes)

    def layer(self, container, since, timeout=60):
        """Of a scan that ended after that time (time.time())."""
        def fresh():
            layer = self.stats(container).writable_layer
            return layer.timestamp >= since * NANOS and (layer.used_bytes.value, layer.inodes_used.value)
        return cri.wait_until(fresh, timeout=timeout, what='a new scan of the writable layer', interval=0.2)


class Everywhere(Stats):
    def test_cpu(self):
        pod = self.pod()
        burner = self.container(pod, STARTS + 'while :; do /bin/true; done & while :; do :; done & wait', 'burner')
        self.wait_for_line('up', name='burner')

        def told(stats):
            return {'usage_usec': stats.cpu.usage_core_nano_seconds.value / 1000}
        file, pod_file = self.path(burner, 'cpu.stat'), self.pod_path(pod, 'cpu.stat')
        self.between(lambda: numbers(limits_test.read(file)), lambda: told(self.stats(burner)), usage_usec=1000)
        self.between(lambda: numbers(limits_test.read(pod_file)), lambda: told(self.pod_stats(pod).linux), usage_usec=1000)
        self.between(lambda: numbers(limits_test.read(file)), lambda: told(self.pod_stats(pod).linux.containers[0]))

    def test_pressure(self):
        container = self.container(self.pod(), STARTS + 'for i in 1 2 3 4; do while :; do /bin/true; done & done; wait')
        self.wait_for_line('up')
        if not os.path.exists(f'{limits_test.node_cgroup()}/cpu.pressure'):
            self.skipTest('the kernel counts no pressure here (psi=1)')

        def told(kind):
            psi = getattr(self.stats(container), kind).psi
            return {'some': psi.Some.Total, 'full': psi.Full.Total}
        for kind, some in ('cpu', 1), ('memory', 0), ('io', 0):     # four loops of which some wait
            file = self.path(container, f'{kind}.pressure')
            self.between(lambda file=file: totals(limits_test.read(file)), lambda kind=kind: told(kind), some=some)

    def test_rate(self):
        """Of late, not since the start."""
        container = self.container(self.pod(), STARTS + 'while [ ! -e /stop ]; do :; done; echo over; sleep 3600 & wait')
        self.wait_for_line('up')
        time.sleep(0.6)
        first = self.stats(container).cpu
        self.assertGreater(first.usage_nano_cores.value, NANOS // 100)
        time.sleep(1.5)
        second = self.stats(container).cpu
        used = second.usage_core_nano_seconds.value - first.usage_core_nano_seconds.value
        expected = used * NANOS / (second.timestamp - first.timestamp)
        self.assertAlmostEqual(second.usage_nano_cores.value / expected, 1, delta=0.15)
        self.cri.ExecSync(container_id=container, cmd=['touch', '/stop'])
        self.wait_for_line('over')
        self.stats(container)
        time.sleep(0.6)
        self.stats(container)
        time.sleep(0.6)
        self.assertLess(self.stats(container).cpu.usage_nano_cores.value, NANOS // 50)

    def test_network(self):
        server, client = self.pod('server'), self.pod('client')
        self.container(server, STARTS + 'httpd -f -p 8080 -h / & wait')
        self.wait_for_line('up', pod='server')
        address = self.pod_status(server).network.ip
        loader = self.container(client, STARTS + f'while :; do wget -q -O - http://{address}:8080/bin/busybox | tail -c1 > /dev/null; done')
        pid = json.loads(self.cri.ContainerStatus(container_id=loader, verbose=True).info['info'])['pid']

        def source():
            lines = [line.split() for line in limits_test.read(f'/proc/{pid}/net/dev').replace(':', ': ').splitlines()]
            line = next(line for line in lines if line[0] == 'eth0:')
            return dict(zip(('rx', 'rx_errors', 'tx', 'tx_errors'), (int(line[i]) for i in (1, 3, 9, 11))))

        def told():
            network = self.pod_stats(client).linux.network
            self.assertEqual([network.default_interface.name] + [i.name for i in network.interfaces], ['eth0'])
            eth0 = network.default_interface
            return {'rx': eth0.rx_bytes.value, 'tx': eth0.tx_bytes.value,
                    'rx_errors': eth0.rx_errors.value, 'tx_errors': eth0.tx_errors.value}
        self.between(source, told, rx=100_000, tx=1_000)
        # A namespace that nobody keeps goes with its pod, whoever has read it, and so does the other end of its link.
        links = self.links()
        self.cri.StopPodSandbox(pod_sandbox_id=client)
        self.assertFalse(self.pod_stats(client).linux.HasField('network'))
        cri.wait_until(lambda: len(self.links()) == len(links) - 1, what='the end of the network namespace')

    @staticmethod
    def links():
        return [line for line in running.enter('cat', '/proc/net/dev').splitlines() if ':' in line]

    def test_node_network(self):
        """A pod on the node's has none of its own."""
        pod = self.pod(linux={'security_context': {'namespace_options': {'network': 'NODE'}}})
        linux = self.pod_stats(pod).linux
        self.assertFalse(linux.HasField('network'))
        self.assertTrue(linux.cpu.HasField('usage_core_nano_seconds'))

    def test_writable_layer(self):
        script = STARTS + ('mkdir -p /w/a/b; dd if=/dev/zero of=/w/sparse bs=1 seek=1G count=1 2>/dev/null; echo x > /w/1; ln /w/1 /w/2; '
                           'ln -s /bin /w/link; rm /bin/sh; i=0; while [ ! -e /stop ]; do i=$((i + 1)); '
                           'dd if=/dev/zero of=/w/a/$i bs=10k count=1 2>/dev/null; sleep 0.02; done; echo over; sleep 3600 & wait')
        container = self.container(self.pod(), script)
        self.wait_for_line('up')
        for _ in range(2):
            before = self.du(container)
            # One that ended seconds later began after that reading, even where others keep the thread waiting.
            told = self.layer(container, time.time() + 5)
            after = self.du(container)
            for a, b, c in zip(before, told, after):
                self.assertLessEqual(a, b)
                self.assertLessEqual(b, c)
            self.assertLess(before[0], after[0])
        self.cri.ExecSync(container_id=container, cmd=['touch', '/stop'])
        self.wait_for_line('over')
        rest = self.du(container)
        self.assertEqual(self.layer(container, time.time() + 1), rest)
        info = self.cri.ImageFsInfo()
        self.assertEqual(len(info.container_filesystems), 1)
        usage = info.container_filesystems[0]
        self.assertEqual((usage.used_bytes.value, usage.inodes_used.value), rest)
        self.assertLess(abs(usage.timestamp / NANOS - time.time()), 60)
        self.assertTrue(os.path.isdir(usage.fs_id.mountpoint))
        self.assertEqual(self.stats(container).writable_layer.fs_id.mountpoint, usage.fs_id.mountpoint)
        self.assertGreater(info.image_filesystems[0].used_bytes.value, 0)
        self.assertGreater(info.image_filesystems[0].inodes_used.value, 0)

    def test_other_drivers(self):
        """A copy is all the container's own."""
        for driver, part in ('fuse-overlayfs', 'upper'), ('copy', 'merged'):
            with self.subTest(driver), running.storage_driver(driver):
                self.connect()
                container = self.container(self.pod(driver), 'dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; rm /bin/wget; ' + STAY)
                self.wait_for_line('up', pod=driver)
                self.assertEqual(self.layer(container, time.time()), self.du(container, part))
                self.cri.RemoveContainer(container_id=container)
            self.connect()

    def test_after_the_end(self):
        """What it wrote last is counted, soon and without being asked for again."""
        container = self.container(self.pod(), 'dd if=/dev/zero of=/last bs=1M count=3 2>/dev/null')
        self.ended(container)
        used = self.du(container)[0]
        self.assertGreater(used, 3 * MEBIBYTE)
        cri.wait_until(lambda: self.cri.ImageFsInfo().container_filesystems[0].used_bytes.value == used, timeout=30,
                       what='a last scan')
        # A daemon that comes later counts it too.
        running.restart_daemon()
        self.connect()
        cri.wait_until(lambda: self.cri.ImageFsInfo().container_filesystems[0].used_bytes.value == used, timeout=30, what='the same figure')

    def test_removed(self):
        container = self.container(self.pod(), 'dd if=/dev/zero of=/last bs=1M count=3 2>/dev/null; echo up; ' + STAY)
        self.wait_for_line('up')
        self.layer(container, time.time())
        self.cri.RemoveContainer(container_id=container)
        usage = self.cri.ImageFsInfo().container_filesystems[0]
        self.assertEqual((usage.used_bytes.value, usage.inodes_used.value), (0, 0))
        self.assertGreater(usage.timestamp, 0)

    def test_scans_are_bounded(self):
        """A hundredth of a processor while somebody asks, nothing while nobody does."""
        def many(name, count):
            container = self.container(pod, STARTS + (
                f'mkdir /w; for i in $(seq {count // 100}); do mkdir /w/$i; j=0; while [ $j -lt 100 ]; do : > /w/$i/$j; j=$((j + 1)); '
                'done; done; echo made; sleep 3600 & wait'), name)
            cri.wait_until(lambda: 'made' in self.texts(name=name), timeout=60, what='many files')
            return container
        pod = self.pod()
        container = many('many', 100_000)
        begin, before = time.monotonic(), thread_time('stats-layers')
        # What was asked for is scanned at once, then each ten seconds.
        while time.monotonic() < begin + 22:
            self.stats(container)
            time.sleep(0.2)
        used, took = thread_time('stats-layers') - before, time.monotonic() - begin
        self.assertGreater(used, 0)
        self.assertLess(used / NANOS, 0.01 * took + 0.03)
        self.cri.RemoveContainer(container_id=container)

        def quiet(seconds):
            before = thread_time('stats-layers')
            time.sleep(seconds)
            return thread_time('stats-layers') == before
        # One that takes many slices is counted whole; then nothing is done.
        self.assertGreaterEqual(self.layer(many('fewer', 11_000), time.time(), 180)[1], 11_110)
        cri.wait_until(lambda: quiet(12), timeout=120, what='an end of the last scan')

    def test_coming_and_going(self):
        """Containers and pods that end while they are read are no errors."""
        begin, seen = time.monotonic(), 0
        pods = [self.pod(f'p{i}') for i in range(4)]
        futures = []
        round_ = 0
        while time.monotonic() < begin + 8 or seen <= 10 and time.monotonic() < begin + 60:
            made = [self.container(pod, 'while :; do /bin/true & wait $!; done', f'c{round_}') for pod in pods]
            futures = [self.cri.future('StopContainer', container_id=c, timeout=0) for c in made]
            futures.append(self.cri.future('StopPodSandbox', pod_sandbox_id=pods.pop(0)))
            while not all(f.done() for f in futures):
                seen += sum(s.HasField('cpu') for s in self.cri.ListContainerStats().stats)
                for pod in self.cri.ListPodSandboxStats().stats:
                    seen += pod.linux.HasField('cpu')
            for future in futures:
                future.result()
            round_ += 1
            pods.append(self.pod(f'p{3 + round_}'))
        self.assertGreater(seen, 10)


class With(Stats):
    def test_memory(self):
        """What is held is told; what only grows is between two readings."""
        pod = self.pod()
        script = STARTS + ('dd if=/dev/zero of=/dev/shm/held bs=1M count=30 2>/dev/null; dd if=/dev/zero of=/file bs=1M count=10 2>/dev/null; '
                           'echo held; while :; do /bin/true; done & wait')
        container = self.container(pod, script, linux={'resources': {'memory_limit_in_bytes': 100 * MEBIBYTE}})
        self.wait_for_line('held')
        for stats, path in ((lambda: self.stats(container), self.path(container, '')),
                            (lambda: self.pod_stats(pod).linux, self.pod_path(pod, ''))):
            def file(name, path=path):
                return limits_test.read(path + name)
            self.between(lambda file=file: numbers(file('memory.stat')), lambda stats=stats: {
                'pgfault': (m := stats().memory).page_faults.value, 'pgmajfault': m.major_page_faults.value}, pgfault=100)
            before, stat = int(file('memory.current')), numbers(file('memory.stat'))
            memory = stats().memory
            self.assertGreater(memory.usage_bytes.value, 30 * MEBIBYTE)
            self.assertAlmostEqual(memory.usage_bytes.value, before, delta=4 * MEBIBYTE)
            self.assertAlmostEqual(memory.rss_bytes.value, stat['anon'], delta=2 * MEBIBYTE)
            self.assertAlmostEqual(memory.working_set_bytes.value, before - stat['inactive_file'], delta=4 * MEBIBYTE)
        memory = self.stats(container).memory
        self.assertEqual(memory.available_bytes.value, 100 * MEBIBYTE - memory.working_set_bytes.value)
        self.assertFalse(self.pod_stats(pod).linux.memory.HasField('available_bytes'), 'the pod has no limit of its own')

    def test_swap(self):
        resources = {'memory_limit_in_bytes': 50 * MEBIBYTE, 'memory_swap_limit_in_bytes': 60 * MEBIBYTE}
        container = self.limited(**resources)
        if not os.path.exists(f'{limits_test.node_cgroup()}/init/memory.swap.current'):
            self.assertFalse(self.stats(container).HasField('swap'))
            self.skipTest('the kernel counts no swap')
        swap = self.stats(container).swap
        self.assertEqual(swap.swap_usage_bytes.value, int(self.file(container, 'memory.swap.current')))
        self.assertEqual(swap.swap_available_bytes.value, 10 * MEBIBYTE - swap.swap_usage_bytes.value)

    def test_processes(self):
        pod = self.pod()
        self.container(pod, STARTS + 'for i in 1 2 3 4 5; do sleep 3600 & done; wait')

        def told():
            before, count, after = (int(self.pod_file(pod, 'pids.current')), self.pod_stats(pod).linux.process.process_count.value,
                                    int(self.pod_file(pod, 'pids.current')))
            self.assertTrue(min(before, after) <= count <= max(before, after), (before, count, after))
            return count
        cri.wait_until(lambda: told() >= 6, what='the shell and its five')


class Without(Stats):
    def test_not_available_is_no_zero(self):
        pod = self.pod()
        container = self.container(pod, STAY)
        missing = {'cpu', 'memory', 'pids'} - limits_test.controllers()
        for stats in (self.stats(container), self.pod_stats(pod).linux):
            self.assertGreater(stats.cpu.timestamp, 0)
            self.assertGreater(stats.memory.timestamp, 0)
            self.assertTrue(stats.cpu.HasField('usage_core_nano_seconds'))
            for field in ('usage_bytes', 'working_set_bytes', 'available_bytes', 'rss_bytes', 'page_faults', 'major_page_faults'):
                self.assertEqual(stats.memory.HasField(field), 'memory' not in missing, field)
        self.assertEqual(self.pod_stats(pod).linux.HasField('process'), 'pids' not in missing)


def load_tests(loader, tests, _):
    if not (os.path.exists(cri.SOCKET) and cri.REGISTRY):
        return tests
    have = {'cpu', 'memory', 'pids'} <= limits_test.controllers()
    if not have:
        print('SKIP: figures of memory and processes: no cpu, memory and pids controllers are delegated here', flush=True)
    # There all takes minutes: what is compared with its source, not what only the other machine's speed shows.
    slowly = [Everywhere(name) for name in ('test_cpu', 'test_network', 'test_writable_layer')]
    everywhere = unittest.TestSuite(slowly) if UML else loader.loadTestsFromTestCase(Everywhere)
    return unittest.TestSuite([everywhere, loader.loadTestsFromTestCase(With if have else Without)])


if __name__ == '__main__':
    running.main()
