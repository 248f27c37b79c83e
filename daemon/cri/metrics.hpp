// Figures in the shape that cAdvisor gives them: a name, labels by their position, one whole number.
#pragma once

#include "api.pb.h"
#include "daemon/stats/figures.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

// Of all metrics there can be, in an order that never changes. The names are cAdvisor's, the labels those that CRI-O
// gives: id, image, namespace, pod, container, and what tells several values of one name apart.
void fillDescriptors(v1::ListMetricDescriptorsResponse* response);

// What the figures lack is left out. Seconds are whole ones, as a kubelet passes numbers on as they are. Figures must
// be of Detail::All.
void fillMetrics(const stats::PodFigures& figures, v1::PodSandboxMetrics* message);

}  // namespace userpod::cri
