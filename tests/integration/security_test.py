#!/usr/bin/python3
"""Requests that the host may not grant (AppArmor, SELinux, user namespaces, sysctls, idmapped mounts): honoured or
refused by name, never taken in silence.  Mounts and limits of descriptors as Kubernetes users know them."""
import json
import os
import resource
import shutil
import tempfile
import unittest

import cri
import running

STAY = 'trap "exit 0" TERM; echo up; while :; do sleep 0.1; done'
KUBELET = '/var/lib/kubelet'


class Security(running.Running):
    def refused(self, code, words, call, *args, **fields):
        with self.assertRaises(cri.grpc.RpcError) as caught:
            call(*args, **fields)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertRegex(caught.exception.details(), words)

    def secured(self, pod, script='echo end', name='main', **context):
        return self.container(pod, script, name, linux={'security_context': context})

    def directory(self, parent='/var/tmp'):
        made = tempfile.mkdtemp(prefix='userpod-test-mounts-', dir=parent)
        self.addCleanup(shutil.rmtree, made, ignore_errors=True)
        return made


class Modules(Security):
    def test_apparmor(self):
        if os.path.exists('/sys/module/apparmor'):
            self.skipTest('this host has AppArmor')
        pod = self.pod()
        localhost = {'profile_type': 'Localhost', 'localhost_ref': 'mine'}
        self.refused(cri.Code.UNIMPLEMENTED, 'this host has no AppArmor.*profile mine', self.secured, pod, apparmor=localhost)
        self.refused(cri.Code.UNIMPLEMENTED, 'this host has no AppArmor', self.secured, pod, apparmor_profile='localhost/mine')
        self.refused(cri.Code.UNIMPLEMENTED, 'this host has no AppArmor', self.pod, 'other',
                     linux={'security_context': {'apparmor': localhost}})
        for i, fine in enumerate(({'apparmor': {'profile_type': 'RuntimeDefault'}}, {'apparmor': {'profile_type': 'Unconfined'}},
                                  # the message wins over its older spelling
                                  {'apparmor': {'profile_type': 'Unconfined'}, 'apparmor_profile': 'localhost/mine'})):
            self.secured(pod, name=f'c{i}', **fine)
        self.secured(self.pod('privileged', linux={'security_context': {'privileged': True, 'apparmor': localhost}}), privileged=True,
                     apparmor=localhost)

    def test_selinux(self):
        if os.path.exists('/sys/fs/selinux'):
            self.skipTest('this host has SELinux')
        pod = self.pod()
        self.refused(cri.Code.UNIMPLEMENTED, 'this host has no SELinux', self.secured, pod, selinux_options={'level': 's0:c1,c2'})
        self.refused(cri.Code.UNIMPLEMENTED, 'this host has no SELinux', self.pod, 'other',
                     linux={'security_context': {'selinux_options': {'type': 'spc_t'}}})
        self.secured(pod, selinux_options={})
        self.wait_for_line('end')
        # A volume is to have the label of its container, which has none.
        self.container(pod, 'true', 'mounted', mounts=[{'container_path': '/m', 'host_path': self.directory(), 'selinux_relabel': True}])

    def test_seccomp(self):
        pod = self.pod()
        profile = f'{self.directory()}/profile.json'
        with open(profile, 'w', encoding='utf-8') as f:
            json.dump({'defaultAction': 'SCMP_ACT_ALLOW', 'syscalls': [{'names': ['mkdir', 'mkdirat'], 'action': 'SCMP_ACT_ERRNO'}]}, f)
        script = 'grep Seccomp: /proc/self/status; mkdir /new 2>/dev/null || echo refused; echo end'
        localhost = {'profile_type': 'Localhost', 'localhost_ref': profile}
        cases = {'none': ({}, False, False), 'unconfined': ({'seccomp': {'profile_type': 'Unconfined'}}, False, False),
                 'default': ({'seccomp': {'profile_type': 'RuntimeDefault'}}, True, False), 'localhost': ({'seccomp': localhost}, True, True),
                 'old': ({'seccomp_profile_path': f'localhost/{profile}'}, True, True),
                 'both': ({'seccomp': {'profile_type': 'Unconfined'}, 'seccomp_profile_path': f'localhost/{profile}'}, False, False)}
        for name, (context, filtered, refused) in cases.items():
            self.secured(pod, script, name, **context)
            self.wait_for_line('end', name=name)
            texts = self.texts(name=name)
            self.assertEqual(('Seccomp:\t2' in texts, 'refused' in texts), (filtered, refused), (name, texts))
        privileged = self.pod('privileged', linux={'security_context': {'privileged': True}})
        self.secured(privileged, script, privileged=True, seccomp=localhost)
        self.wait_for_line('end', pod='privileged')
        self.assertIn('Seccomp:\t0', self.texts('privileged'))
        self.refused(cri.Code.INVALID_ARGUMENT, 'seccomp.localhost_ref is "relative.json"; give an absolute path', self.secured, pod, name='relative',
                     seccomp={'profile_type': 'Localhost', 'localhost_ref': 'relative.json'})
        self.refused(cri.Code.INVALID_ARGUMENT, 'none.json', self.secured, pod, name='missing',
                     seccomp={'profile_type': 'Localhost', 'localhost_ref': f'{profile}/../none.json'})

    def test_user_namespaces(self):
        """No pod has one: what asks for one is refused, what is malformed is told."""
        def pod(**options):
            return self.pod(linux={'security_context': {'namespace_options': {'userns_options': options}}})
        ids = [{'host_id': 100000, 'container_id': 0, 'length': 65536}]
        self.refused(cri.Code.UNIMPLEMENTED, 'userns_options.mode POD.*hostUsers: true', pod, mode=0, uids=ids, gids=ids)
        self.refused(cri.Code.INVALID_ARGUMENT, 'uids .*exactly one', pod, mode=0, uids=ids * 2, gids=ids)
        self.refused(cri.Code.INVALID_ARGUMENT, 'gids .*exactly one', pod, mode=0, uids=ids)
        self.refused(cri.Code.INVALID_ARGUMENT, 'uids .*id 0', pod, mode=0, uids=[{**ids[0], 'container_id': 1}], gids=ids)
        self.refused(cri.Code.INVALID_ARGUMENT, 'uids .*length', pod, mode=0, uids=[{**ids[0], 'length': 0}], gids=ids)
        for mode in (1, 3):
            self.refused(cri.Code.INVALID_ARGUMENT, 'must be POD or NODE', pod, mode=mode)
        self.refused(cri.Code.INVALID_ARGUMENT, 'has id maps with mode NODE', pod, mode=2, uids=ids, gids=ids)
        pod(mode=2)


class Sysctls(Security):
    def set(self, name='pod', mode=0, **sysctls):
        options = {'network': mode, 'ipc': mode}
        return self.pod(name, linux={'sysctls': {key.replace('__', '.'): value for key, value in sysctls.items()},
                                     'security_context': {'namespace_options': options}})

    def test_what_a_pod_may_set(self):
        wanted = {'net.ipv4.ip_unprivileged_port_start': '0', 'net.ipv4.ping_group_range': '0\t0', 'net.ipv4.tcp_syncookies': '0',
                  'net.ipv4.ip_local_port_range': '40000\t41000', 'kernel.shm_rmid_forced': '1', 'kernel.shmmax': '65536', 'kernel.shmall': '4096',
                  'kernel.shmmni': '100', 'kernel.msgmax': '4096', 'kernel.msgmnb': '8192', 'kernel.msgmni': '50',
                  'kernel.sem': '250\t32000\t32\t100', 'fs.mqueue.msg_max': '20'}
        # IPC ones can be written with root's rights over the IPC namespace only in kernels that look for them there.
        names = [key for key, value in wanted.items() if self.can(key, value)]
        if len(names) < len(wanted):
            print('SKIP: this kernel does not let a user namespace set:', *sorted(set(wanted) - set(names)), flush=True)
        pod = self.set(**{name: wanted[name] for name in names})
        self.assertIn('net.ipv4.ip_unprivileged_port_start', names)
        self.container(pod, '; '.join(f'cat /proc/sys/{name.replace(".", "/")}' for name in names) + '; echo end')
        self.wait_for_line('end')
        self.assertEqual(self.texts()[:-1], [wanted[name] for name in names])

    @staticmethod
    def can(name, value):
        """Whether this kernel lets the root of a user namespace set it in namespaces of its own."""
        path = '/proc/sys/' + name.replace('.', '/')
        return 'good' in cri.run('unshare', '-Urin', 'sh', '-c', f'printf "%s" "{value}" > {path} && echo good', check=False)

    def test_what_is_refused_says_why(self):
        invalid = cri.Code.INVALID_ARGUMENT
        for name in ('vm.swappiness', 'kernel.panic', 'fs.file-max', 'fs.inotify.max_user_watches'):
            self.refused(invalid, f'sysctl {name} has no namespace', self.set, **{name: '1'})
        self.refused(invalid, 'sysctl kernel.hostname.*config.hostname', self.set, **{'kernel.hostname': 'x'})
        self.refused(cri.Code.UNIMPLEMENTED, "sysctl kernel.domainname.*the machine's root", self.set, **{'kernel.domainname': 'x'})
        self.refused(invalid, 'net.ipv4.ip_forward = maybe', self.set, **{'net.ipv4.ip_forward': 'maybe'})
        self.refused(invalid, 'no such sysctl', self.set, **{'net.ipv4.no_such': '1'})
        self.refused(invalid, 'is not a name', self.set, **{'net': '1'})
        self.refused(invalid, 'name with', self.set, **{'net/../kernel/panic': '1'})
        self.assertEqual(len(self.cri.ListPodSandbox().items), 0)

    def test_of_the_node(self):
        """Left out with a warning: they would change every pod of the node."""
        before = running.enter('cat', '/proc/sys/kernel/shmmax')
        pod = self.set(mode=2, **{'kernel.shmmax': '65536', 'net.ipv4.ip_unprivileged_port_start': '7'})
        self.assertEqual(running.enter('cat', '/proc/sys/kernel/shmmax'), before)
        told = cri.run('journalctl', '--user', '-o', 'cat', '-p', 'warning', '-n', '200')
        self.assertIn('sysctl kernel.shmmax is not set: the pod shares that namespace with the node', told)
        self.assertTrue(pod)


class Mounts(Security):
    def mounted(self, pod, source, name, script=STAY, **fields):
        return self.container(pod, script, name, mounts=[{'container_path': '/m', 'host_path': source, **fields}])

    def listed(self, container, path='/m'):
        return self.cri.ExecSync(container_id=container, cmd=['ls', path]).stdout.decode().split()

    def kubelet_directory(self):
        path = f'{KUBELET}/test-{os.getpid()}'
        running.enter('mkdir', '-p', f'{path}/below')
        self.addCleanup(running.enter, 'sh', '-c', f'umount {path}/below 2>/dev/null; umount {path}/inner 2>/dev/null; rm -r {path}')
        return path

    def test_host_to_container(self):
        """What kubelet mounts later arrives, where that is asked for."""
        source = self.kubelet_directory()
        pod = self.pod()
        containers = {mode: self.mounted(pod, source, f'c{mode}', propagation=mode) for mode in (0, 1)}
        running.enter('mount', '-t', 'tmpfs', 'tmpfs', f'{source}/below')
        running.enter('touch', f'{source}/below/file')
        self.assertEqual({mode: self.listed(c, '/m/below') for mode, c in containers.items()}, {0: [], 1: ['file']})
        # And not the other way.
        self.assertNotEqual(self.cri.ExecSync(container_id=containers[1], cmd=['mount', '-t', 'tmpfs', 'tmpfs', '/m']).exit_code, 0)

    def test_bidirectional(self):
        """What a storage driver in a pod mounts reaches the node, and with it other pods."""
        source = self.kubelet_directory()
        pod = self.pod(linux={'security_context': {'privileged': True}})
        driver = self.container(pod, f'mkdir -p /m/inner; mount -t tmpfs tmpfs /m/inner && touch /m/inner/file; {STAY}', 'driver',
                                mounts=[{'container_path': '/m', 'host_path': source, 'propagation': 2}], linux={'security_context': {'privileged': True}})
        reader = self.mounted(pod, source, 'reader', propagation=1)
        self.wait_for_line('up', name='driver')
        self.assertEqual(running.enter('ls', f'{source}/inner'), 'file')
        self.assertEqual(self.listed(reader, '/m/inner'), ['file'])
        self.cri.StopContainer(container_id=driver, timeout=5)
        running.enter('umount', f'{source}/inner')

    def test_propagation_needs_its_source(self):
        source = self.directory()
        pod = self.pod()
        self.refused(cri.Code.INVALID_ARGUMENT, 'Bidirectional propagation needs a shared mount', self.mounted, pod, source, 'none', propagation=2)
        running.enter('sh', '-c', f'mount -t tmpfs tmpfs {source} && mount --make-private {source}')
        self.addCleanup(running.enter, 'umount', source)
        self.refused(cri.Code.INVALID_ARGUMENT, 'HostToContainer propagation needs a shared or slave mount', self.mounted, pod, source, 'none',
                     propagation=1)
        self.mounted(pod, source, 'fine')

    def test_sources(self):
        top = self.directory()
        pod = self.pod()
        os.mkdir(f'{top}/real')
        with open(f'{top}/real/file', 'w', encoding='utf-8'):
            pass
        os.symlink('real', f'{top}/link')
        os.symlink('file', f'{top}/real/link-to-file')
        self.assertEqual(self.listed(self.mounted(pod, f'{top}/link', 'link')), ['file', 'link-to-file'])
        self.mounted(pod, f'{top}/link/link-to-file', 'of-file', 'test -f /m && echo file')
        self.wait_for_line('file', name='of-file')
        # A missing one is made, as CRI-O and containerd do.
        self.assertEqual(self.listed(self.mounted(pod, f'{top}/missing/deep', 'missing')), [])
        self.assertTrue(os.path.isdir(f'{top}/missing/deep'))
        self.refused(cri.Code.INVALID_ARGUMENT, 'file/below: Not a directory', self.mounted, pod, f'{top}/real/file/below', 'bad')
        self.mounted(pod, f'{top}/real', 'readonly', 'touch /m/new 2>/dev/null || echo refused', readonly=True)
        self.wait_for_line('refused', name='readonly')

    def test_what_needs_root(self):
        pod, source = self.pod(), self.directory()
        ids = [{'host_id': 0, 'container_id': 0, 'length': 1}]
        self.refused(cri.Code.UNIMPLEMENTED, 'asks for an idmapped mount, which needs root', self.mounted, pod, source, 'c', uidMappings=ids, gidMappings=ids)
        self.refused(cri.Code.UNIMPLEMENTED, 'asks for an idmapped mount, which needs root', self.mounted, pod, source, 'c', gidMappings=ids)
        self.refused(cri.Code.UNIMPLEMENTED, 'mount_options is not advertised', self.mounted, pod, source, 'c', mount_options=['noexec'])
        self.refused(cri.Code.INVALID_ARGUMENT, 'recursive_read_only needs readonly', self.mounted, pod, source, 'c', recursive_read_only=True)
        self.refused(cri.Code.INVALID_ARGUMENT, 'recursive_read_only needs propagation PRIVATE', self.mounted, pod, source, 'c', recursive_read_only=True,
                     readonly=True, propagation=1)
        self.assertFalse(self.cri.Status().features.mount_options)

    def test_own_directory(self):
        """It is every other container's too: only by the user's own word."""
        own = f'{cri.RUNTIME_DIR}/userpod'
        pod = self.pod()
        for source in (own, cri.RUNTIME_DIR, f'{own}/pods', '/', '/run/userpod'):
            self.refused(cri.Code.PERMISSION_DENIED, 'own directory.*allow-runtime-directory-mounts', self.mounted, pod, source, 'c')
        with running.settings('allow-runtime-directory-mounts = true\n'):
            self.connect()
            self.assertIn('cri.sock', self.listed(self.mounted(pod, own, 'allowed')))
        self.connect()
        self.refused(cri.Code.PERMISSION_DENIED, 'own directory', self.mounted, pod, own, 'c')


class Limits(Security):
    def limits(self, name):
        self.container(self.pod(name), 'ulimit -Sn; ulimit -Hn; echo end', name)
        self.wait_for_line('end', pod=name, name=name)
        return [int(text) for text in self.texts(name, name)[:2]]

    def test_open_files(self):
        """A million, as with other runtimes, or what the user may have; else as configured."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        daemon = int(cri.systemctl('show', '-P', 'LimitNOFILE', running.DAEMON))
        self.assertEqual(self.limits('usual'), [min(1 << 20, daemon, most)] * 2)
        with running.settings('nofile = "1024:4096"\n'):
            self.connect()
            self.assertEqual(self.limits('set'), [1024, 4096])
        with running.settings(f'nofile = "2048:{1 << 40}"\n'):
            self.connect()
            self.assertEqual(self.limits('huge')[0], 2048)
            container = self.cri.ListContainers().containers[0].id
            told = cri.run('journalctl', '--user', '-o', 'cat', '-p', 'warning', '-n', '100')
            self.assertIn(f'nofile {1 << 40} of userpod.toml is more than this user may have', told, container)
        self.connect()


if __name__ == '__main__':
    running.main()
