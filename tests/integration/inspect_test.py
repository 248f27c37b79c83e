#!/usr/bin/python3
"""What `crictl inspect`, `inspectp` and `inspecti` show under "info": the keys that scripts for CRI-O and containerd read."""
import json
import unittest

import cri
import running

STAY = 'trap "exit 0" TERM; echo up; while :; do sleep 0.1; done'


class Inspect(running.Running):
    def pod_info(self, pod):
        return json.loads(self.cri.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info['info'])

    def info(self, container):
        return json.loads(self.cri.ContainerStatus(container_id=container, verbose=True).info['info'])

    def test_container(self):
        pod = self.pod(annotations={'a': 'b'})
        container = self.container(pod, STAY, annotations={'c': 'd'}, linux={'resources': {'oom_score_adj': 900}})
        self.wait_for_line('up')
        info = self.info(container)
        # The number is the host's: its command is what runs here.
        with open(f'/proc/{info["pid"]}/cmdline', encoding='utf-8') as f:
            self.assertEqual(f.read().split('\0')[:2], ['/bin/sh', '-c'])
        self.assertEqual((info['sandboxID'], info['privileged'], info['paused'], info['imageID']), (pod, False, False, self.image))
        self.assertEqual(info['runtimeSpec']['process']['args'], ['/bin/sh', '-c', STAY])
        self.assertEqual(info['config']['metadata'], {'name': 'main', 'attempt': 0})
        self.assertEqual(info['config']['annotations'], {'c': 'd'})
        self.assertEqual(info['config']['linux']['resources'], {'oom_score_adj': 900})
        self.cri.StopContainer(container_id=container, timeout=5)
        self.assertEqual(self.info(container)['pid'], 0)
        self.assertNotIn('info', self.cri.ContainerStatus(container_id=container).info)

    def test_pod(self):
        """The path of its network namespace is what scripts look for."""
        pod = self.pod(hostname='inspected', linux={'sysctls': {'net.ipv4.ip_unprivileged_port_start': '80'}})
        info = self.pod_info(pod)
        spec = info['runtimeSpec']
        paths = {entry['type']: entry['path'] for entry in spec['linux']['namespaces']}
        address = self.pod_status(pod).network.ip
        self.assertIn(address, running.enter('nsenter', f'--net={paths["network"]}', 'ip', 'address'))
        self.assertEqual(running.enter('nsenter', f'--uts={paths["uts"]}', 'uname', '-n'), 'inspected')
        self.assertEqual((spec['hostname'], spec['linux']['sysctl']), ('inspected', {'net.ipv4.ip_unprivileged_port_start': '80'}))
        self.assertEqual(info['config']['metadata']['name'], 'pod')
        if info['pid']:     # of a pod whose containers share their processes
            self.assertIn('pid', paths)
            with open(f'/proc/{info["pid"]}/comm', encoding='utf-8') as f:
                self.assertEqual(f.read().strip(), 'pause')
        alone = self.pod('alone', linux={'security_context': {'namespace_options': {'pid': 1}}})
        self.assertEqual((self.pod_info(alone)['pid'], len(self.pod_info(alone)['runtimeSpec']['linux']['namespaces'])), (0, 3))
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        info = self.pod_info(pod)
        self.assertEqual((info['pid'], info['runtimeSpec']['linux']['namespaces']), (0, []))

    def test_image(self):
        info = json.loads(self.cri.ImageStatus(image={'image': self.image}, verbose=True).info['info'])
        self.assertIn('config', info['imageSpec'])
        self.assertEqual(info['imageSpec']['os'], 'linux')


if __name__ == '__main__':
    running.main()
