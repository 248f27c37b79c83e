#!/usr/bin/python3
"""userpodctl check: silent on a system in order while pods come and go; names each damage, mends what is safe, and leaves
what is somebody's."""
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading

import cri
import running
from terminal import CTL, Terminal

RUN = f'{cri.RUNTIME_DIR}/userpod'
LOOP = 'trap "exit 0" TERM; echo up; while :; do usleep 20000; done'
NODE_NS = '/run/userpod/ns'


def some_id():
    return random.randbytes(32).hex()


def check(*options):
    """Exit status, findings."""
    p = subprocess.run([CTL, 'check', '--json', *options], capture_output=True, text=True, timeout=180, check=False)
    if not p.stdout:
        raise AssertionError(f'check {options}: status {p.returncode}: {p.stderr}')
    return p.returncode, json.loads(p.stdout)['findings']


def named(findings):
    return {(f['code'], f['id']) for f in findings}


def in_node(script):
    return running.enter('sh', '-ec', script)


class CheckTest(running.Running):
    def setUp(self):
        super().setUp()
        self.addCleanup(running.cri.run, CTL, 'check', '--repair', '--yes', check=False)

    def clean(self, *options):
        status, findings = check(*options)
        self.assertEqual(findings, [])
        self.assertEqual(status, 0)

    def repaired(self, expected, *options):
        """These are named, then mended, and then nothing is found."""
        status, findings = check(*options)
        self.assertEqual(named(findings), expected)
        self.assertEqual(status, 1)
        self.assertFalse(any(f['repaired'] for f in findings))
        status, findings = check('--repair', '--yes', *options)
        self.assertEqual(named(findings), expected)
        self.assertEqual([(f['code'], f['failure']) for f in findings if not f['repaired']], [])
        self.assertEqual(status, 0)
        cri.wait_until(lambda: check(*options)[1] == [], timeout=20, what='nothing to be found after the repair')

    # ---- nothing wrong

    def test_nothing_is_found_while_pods_come_and_go(self):
        stop, failed = threading.Event(), []

        def churn(name):
            client = cri.Cri()
            with contextlib.closing(client.channel):
                while not stop.is_set():
                    config = {'metadata': {'name': name, 'namespace': 'test', 'uid': some_id(), 'attempt': 0}, 'linux': {}}
                    try:
                        pod = client.RunPodSandbox(config=config).pod_sandbox_id
                        made = client.CreateContainer(pod_sandbox_id=pod, sandbox_config=config, config={
                            'metadata': {'name': 'main'}, 'image': {'image': self.image}, 'linux': {},
                            'command': ['/bin/sh', '-c', LOOP]}).container_id
                        client.StartContainer(container_id=made)
                        client.ExecSync(container_id=made, cmd=['true'], timeout=10)
                        if random.random() < 0.5:
                            client.StopContainer(container_id=made, timeout=1)
                        client.RemovePodSandbox(pod_sandbox_id=pod)
                    except Exception as e:           # pylint: disable=broad-except
                        failed.append(e)
                        return

        pod = self.pod()
        self.container(pod, LOOP)
        churning = [threading.Thread(target=churn, args=(f'churn-{i}',)) for i in range(3)]
        for thread in churning:
            thread.start()
        try:
            for turn in range(6):
                self.clean(*(['--deep'] if turn == 3 else ['--repair', '--yes'] if turn == 5 else []))
        finally:
            stop.set()
            for thread in churning:
                thread.join()
        self.assertEqual(failed, [])
        self.assertEqual(len(self.cri.ListPodSandbox().items), 1)
        self.clean('--deep')

    def test_many_at_once_follow_each_other(self):
        self.container(self.pod(), LOOP)
        many = [subprocess.Popen([CTL, 'check', '--deep', '--json'], stdout=subprocess.PIPE, text=True) for _ in range(6)]
        for one in many:
            self.assertEqual(json.loads(one.communicate(timeout=120)[0])['findings'], [])
            self.assertEqual(one.returncode, 0)

    def test_the_outputs_for_people(self):
        p = subprocess.run([CTL, 'check'], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((p.returncode, p.stderr), (0, ''))
        self.assertIn('nothing else', p.stdout)
        unknown = some_id()
        os.mkdir(f'{RUN}/pods/{unknown}')
        p = subprocess.run([CTL, 'check'], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(p.returncode, 1)
        self.assertIn('pod-directory-unknown', p.stdout)
        self.assertIn('1 warning', p.stdout)
        self.assertNotIn('\x1b', p.stdout, 'colour is for terminals')
        p = subprocess.run([CTL, 'check', '--repair'], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
        self.assertEqual(p.returncode, 64, 'nobody can be asked')
        terminal = Terminal('check', '--repair')
        terminal.wait_for('repairs 1 of them', 'Continue?')
        terminal.type(b'n\n')
        self.assertNotEqual(terminal.end(), 0)
        self.assertTrue(os.path.exists(f'{RUN}/pods/{unknown}'))
        terminal = Terminal('check', '--repair')
        terminal.wait_for('Continue?')
        terminal.type(b'y\n')
        self.assertEqual(terminal.end(), 0)
        self.assertIn('repaired', terminal.shown())
        self.assertFalse(os.path.exists(f'{RUN}/pods/{unknown}'))

    # ---- what belongs to nobody

    def test_what_belongs_to_nobody_is_named_and_removed(self):
        pod = self.pod()
        made = self.container(pod, LOOP)
        ids = {name: some_id() for name in ('cgroup', 'busy', 'monitor', 'pin', 'exit', 'bundle', 'pod', 'files', 'mount', 'state')}
        cgroups = f'mkdir /sys/fs/cgroup/pods/{ids["cgroup"]} /sys/fs/cgroup/pods/{ids["busy"]} /sys/fs/cgroup/mon/{ids["monitor"]};'
        in_node(cgroups + f'sh -c "echo \\$\\$ >/sys/fs/cgroup/pods/{ids["busy"]}/cgroup.procs; exec setsid sleep 4242" </dev/null >/dev/null 2>&1 &'
                f'mkdir {NODE_NS}/{ids["pin"]}; touch {NODE_NS}/{ids["pin"]}/net; mount --bind /proc/self/ns/net {NODE_NS}/{ids["pin"]}/net;'
                f'mkdir -p {cri.DATA_DIR}/containers/{ids["mount"]}/merged; mount -t tmpfs none {cri.DATA_DIR}/containers/{ids["mount"]}/merged;'
                f'mkdir -p {cri.DATA_DIR}/containers/{ids["files"]}/upper; ip link add up{ids["pod"][:13]} type veth peer name peer0')
        for path in (f'{RUN}/pods/{ids["pod"]}', f'{RUN}/containers/{ids["bundle"]}', f'{cri.DATA_DIR}/layers/feedbeef',
                     f'{cri.DATA_DIR}/layers/.tmp-0123456789abcdef'):
            os.mkdir(path)
        with open(f'{RUN}/exits/{ids["exit"]}', 'w', encoding='utf-8') as f:
            f.write('0')
        os.chmod(f'{RUN}/exits', 0o755)
        os.chmod(f'{cri.DATA_DIR}/layers', 0o777)
        data = cri.DATA_DIR
        self.repaired({
            ('cgroup-unknown', f'/pods/{ids["cgroup"]}'), ('cgroup-unknown', f'/pods/{ids["busy"]}'),
            ('monitor-unknown', f'/mon/{ids["monitor"]}'), ('pin-unknown', f'{NODE_NS}/{ids["pin"]}'),
            ('mount-unknown', f'{data}/containers/{ids["mount"]}/merged'),
            ('container-directory-unknown', f'{data}/containers/{ids["mount"]}'),
            ('container-directory-unknown', f'{data}/containers/{ids["files"]}'), ('link-unknown', f'up{ids["pod"][:13]}'),
            ('pod-directory-unknown', f'{RUN}/pods/{ids["pod"]}'), ('bundle-unknown', f'{RUN}/containers/{ids["bundle"]}'),
            ('layer-unknown', f'{data}/layers/feedbeef'), ('layer-half-made', f'{data}/layers/.tmp-0123456789abcdef'),
            ('exit-file-unknown', f'{RUN}/exits/{ids["exit"]}'), ('mode-wrong', f'{RUN}/exits'), ('mode-wrong', f'{data}/layers')})
        self.assertNotIn('sleep\x004242', in_node('cat /proc/[0-9]*/cmdline 2>/dev/null || true'))
        self.assertEqual(self.state(made), 'RUNNING', 'what has a record is not touched')
        self.assertEqual(self.cri.ExecSync(container_id=made, cmd=['echo', 'here'], timeout=10).stdout, b'here\n')

    def test_a_canceled_repair_stops_between_two(self):
        many = [f'{RUN}/exits/{some_id()}' for _ in range(3000)]
        for path in many:
            with open(path, 'w', encoding='utf-8') as f:
                f.write('0')
        job = cri.bus_call('/org/userpod1', f'{cri.BUS}.Manager', 'Check', 'a{sv}', 1, 'repair', 'b', 'true')[1]
        cri.wait_until(lambda: sum(map(os.path.exists, many)) < len(many), timeout=30, interval=0.001, what='the first repair')
        cri.bus_call(job, f'{cri.BUS}.Job', 'Cancel', 'a{sv}', 0)
        with self.assertRaisesRegex(RuntimeError, 'ancel'):
            cri.bus_call(job, f'{cri.BUS}.Job', 'Wait', 'a{sv}', 0)
        left = {path for path in many if os.path.exists(path)}
        self.assertGreater(len(left), 0)
        # What is left is still named, and mended by the next one.
        self.repaired({('exit-file-unknown', path) for path in left})

    # ---- what somebody has

    def test_cgroups_below_a_containers_are_its_own(self):
        """As docker in a container names its own by ids."""
        pod = self.pod()
        made = self.container(pod, LOOP)
        inside = f'/sys/fs/cgroup/pods/{pod}/{made}/docker/{some_id()}'
        in_node(f'mkdir -p {inside}; sh -c "echo \\$\\$ >{inside}/cgroup.procs; exec setsid sleep 4243" </dev/null >/dev/null 2>&1 &')
        lives = cri.wait_until(lambda: in_node(f'cat {inside}/cgroup.procs').split(), what='a process in it')
        self.clean('--repair', '--yes')
        self.assertEqual(in_node(f'cat {inside}/cgroup.procs').split(), lives)

    def directory_of(self, container):
        """One of its image's layers, the largest."""
        info = json.loads(cri.run(CTL, 'inspect', self.image))
        self.assertTrue(info['Id'])
        with contextlib.closing(sqlite3.connect(f'file:{cri.DATA_DIR}/images.db?mode=ro', uri=True)) as db:
            rows = db.execute('SELECT l.directory, l.diff_id FROM layers l JOIN image_layers i ON i.diff_id = l.diff_id '
                              'WHERE i.image_id = ? ORDER BY l.size DESC', (info['Id'],)).fetchall()
        self.assertTrue(rows, container)
        return f'{cri.DATA_DIR}/layers/{rows[0][0]}', rows[0][1]

    def test_a_layer_that_is_gone_is_fetched_again(self):
        pod = self.pod()
        self.container(pod, LOOP)
        directory, layer = self.directory_of(pod)
        in_node(f'mv {directory} {cri.DATA_DIR}/aside')
        self.addCleanup(in_node, f'rm -rf {cri.DATA_DIR}/aside')
        status, findings = check('--repair', '--yes')
        self.assertEqual((status, named(findings)), (1, {('layer-missing', layer)}))
        self.assertFalse(findings[0]['repairable'], 'a container uses it')
        self.assertIn('uses it', findings[0]['text'])
        self.assertEqual(len(self.cri.ListImages().images), 1)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.repaired({('layer-missing', layer)})
        self.assertEqual(len(self.cri.ListImages().images), 0)
        self.image = self.cri.PullImage(image={'image': running.IMAGE}).image_ref
        self.assertTrue(os.path.isdir(self.directory_of(pod)[0]))
        self.clean('--deep')

    def test_a_deep_check_counts_as_the_unpacker_does(self):
        for name in ('test/layers:latest', 'test/many-layers:latest', 'test/volume:latest', 'test/schema2:latest', 'artifacts/files:latest'):
            image = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/{name}'}).image_ref
            self.addCleanup(lambda i=image: self.cri.RemoveImage(image={'image': i}))
        self.clean('--deep')

    def test_a_layer_that_was_changed_is_found_by_a_deep_check(self):
        directory, layer = self.directory_of('')
        in_node(f'echo more >{directory}/more')
        self.clean()
        self.repaired({('layer-changed', layer)}, '--deep')

    def test_what_a_container_wrote_is_never_removed(self):
        pod = self.pod()
        made = self.container(pod, 'echo precious >/precious')
        cri.wait_until(lambda: self.state(made) == 'EXITED', what='the end')
        in_node(f'mv {RUN}/containers/{made} {RUN}/aside')
        self.addCleanup(in_node, f'rm -rf {RUN}/aside')
        check('--repair', '--yes')
        self.assertEqual(in_node(f'cat {cri.DATA_DIR}/containers/{made}/*/precious').strip(), 'precious')
        in_node(f'mv {cri.DATA_DIR}/containers/{made} {cri.DATA_DIR}/aside')
        self.addCleanup(in_node, f'rm -rf {cri.DATA_DIR}/aside')
        status, findings = check('--repair', '--yes')
        self.assertEqual((status, named(findings)), (1, {('container-files-missing', made)}))
        self.assertIn(f'userpodctl rm --force {made[:12]}', findings[0]['mend'])

    def test_what_is_broken_under_a_running_container_is_named_and_left(self):
        pod = self.pod()
        made = self.container(pod, LOOP)
        in_node(f'umount -l {cri.DATA_DIR}/containers/{made}/merged; umount -l {NODE_NS}/{pod}/ipc; mv {RUN}/pods/{pod} {RUN}/aside')
        self.addCleanup(in_node, f'umount -l {RUN}/aside/shm; rm -rf {RUN}/aside')
        for options in ((), ('--repair', '--yes')):
            status, findings = check(*options)
            self.assertEqual((status, named(findings)), (1, {('root-not-mounted', made), ('pin-missing', pod), ('pod-directory-missing', pod)}))
        self.assertEqual(self.state(made), 'RUNNING')

    def test_a_monitor_that_was_killed_is_told_and_is_no_fault(self):
        pod = self.pod()
        made = self.container(pod, LOOP)
        node = cri.systemctl('show', '-P', 'ControlGroup', running.NODE).strip()
        with open(f'/sys/fs/cgroup{node}/mon/{made}/cgroup.procs', encoding='utf-8') as f:
            for pid in f.read().split():
                os.kill(int(pid), signal.SIGKILL)
        cri.wait_until(lambda: self.state(made) == 'EXITED', what='the end')
        status, findings = check()
        self.assertEqual((status, named(findings)), (0, {('container-lost', made)}))
        self.assertEqual(findings[0]['severity'], 'info')
        self.cri.RemoveContainer(container_id=made)
        self.clean()

    def test_a_server_of_files_that_was_killed(self):
        with running.storage_driver('fuse-overlayfs'):
            self.connect()
            pod = self.pod()
            made = self.container(pod, LOOP)
            self.clean()
            in_node(f'kill -KILL $(cat /sys/fs/cgroup/fuse/{made}/cgroup.procs)')
            cri.wait_until(lambda: self.state(made) == 'EXITED', what='the end')
            status, findings = check()
            self.assertEqual((status, named(findings)), (0, {('container-lost', made)}))
            self.assertIn('fuse-overlayfs', findings[0]['text'])
            in_node(f'mkdir /sys/fs/cgroup/fuse/{"e" * 64}-volume-0')
            self.repaired_beside({('container-lost', made)}, {('server-unknown', f'/fuse/{"e" * 64}-volume-0')})
        self.connect()

    def repaired_beside(self, notes, expected):
        self.assertEqual(named(check()[1]), notes | expected)
        status, findings = check('--repair', '--yes')
        self.assertEqual({(f['code'], f['id']) for f in findings if f['repaired']}, expected)
        self.assertEqual(status, 0)
        self.assertEqual(named(check()[1]), notes)

    # ---- databases

    @staticmethod
    def damage(path):
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        with open(path, 'r+b') as f:
            f.seek(0, os.SEEK_END)
            size = f.tell()
            f.seek(4096)
            f.write(b'\xa5' * (size - 4096))

    def test_the_live_database_is_written_anew_from_what_is_known(self):
        pod = self.pod()
        made = self.container(pod, LOOP)
        self.damage(f'{RUN}/live.db')
        status, findings = check('--repair', '--yes')
        self.assertIn(('database-damaged', f'{RUN}/live.db'), named(findings))
        self.assertEqual(status, 0, findings)
        self.clean()
        # One that is killed leaves what it had written by then, and no more.
        cri.systemctl('kill', '-s', 'KILL', '--kill-who=main', running.DAEMON)
        running.restart_daemon()
        self.connect()
        self.assertEqual(self.state(made), 'RUNNING', 'the next daemon knows it')
        self.assertEqual(self.cri.ExecSync(container_id=made, cmd=['echo', 'here'], timeout=10).stdout, b'here\n')

    def test_a_damaged_images_database_is_named_with_its_mend(self):
        pod = self.pod()
        made = self.container(pod, LOOP)
        path = f'{cri.DATA_DIR}/images.db'
        self.damage(path)
        status, findings = check('--repair', '--yes')
        damaged = [f for f in findings if f['code'] == 'database-damaged']
        self.assertEqual([f['id'] for f in damaged], [path])
        self.assertIn('restart userpod.service', damaged[0]['mend'])
        self.assertEqual(status, 1)
        running.restart_daemon()
        self.connect()
        self.assertEqual(self.state(made), 'RUNNING', 'a container needs no database of images')
        self.assertEqual(len(self.cri.ListImages().images), 0)
        self.repaired({('database-set-aside', f'{path}.damaged')})
        self.image = self.cri.PullImage(image={'image': running.IMAGE}).image_ref
        self.clean('--deep')

    # ---- without a daemon

    def test_without_a_daemon_what_can_be_seen_is_told(self):
        cri.systemctl('stop', running.SOCKET, running.DAEMON)
        self.addCleanup(running.restart_daemon)
        status, findings = check()
        self.assertEqual((status, findings), (75, []))
        os.chmod(f'{cri.DATA_DIR}/images.db', 0)
        status, findings = check()
        os.chmod(f'{cri.DATA_DIR}/images.db', 0o600)
        self.assertEqual((status, named(findings)), (75, {('database-unreadable', f'{cri.DATA_DIR}/images.db')}), 'which is no damage')
        self.damage(f'{cri.DATA_DIR}/images.db')
        os.chmod(cri.DATA_DIR, 0o755)
        status, findings = check()
        self.assertEqual(status, 75)
        self.assertEqual(named(findings), {('database-damaged', f'{cri.DATA_DIR}/images.db'), ('mode-wrong', cri.DATA_DIR)})
        p = subprocess.run([CTL, 'check'], capture_output=True, text=True, timeout=60, check=False)
        self.assertIn('the daemon cannot be asked', p.stdout)
        self.assertIn('images.db', p.stdout)


if __name__ == '__main__':
    running.main()
