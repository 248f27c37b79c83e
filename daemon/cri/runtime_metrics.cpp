// RuntimeService: the calls about metrics.
#include "daemon/cri/lists.hpp"
#include "daemon/cri/metrics.hpp"
#include "daemon/cri/pods.hpp"
#include "daemon/cri/runtime_service.hpp"

namespace userpod::cri {
namespace {

Records<PodRecord> readyPods(const core::Snapshot& snapshot) {
  return select(snapshot.pods,
                [](const PodRecord& pod) { return visible(pod) && pod.state == PodRecord::State::Ready; });
}

}  // namespace

grpc::ServerUnaryReactor* RuntimeService::ListMetricDescriptors(Context* context,
                                                                const v1::ListMetricDescriptorsRequest*,
                                                                v1::ListMetricDescriptorsResponse* response) {
  fillDescriptors(response);
  return answer(context, {"ListMetricDescriptors"}, {});
}

grpc::ServerUnaryReactor* RuntimeService::ListPodSandboxMetrics(Context*, const v1::ListPodSandboxMetricsRequest*,
                                                                v1::ListPodSandboxMetricsResponse* response) {
  return calls_->run({"ListPodSandboxMetrics"}, [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.podFigures(readyPods(*core_.snapshot()), stats::Detail::All,
                     [reply, response](const std::vector<stats::PodFigures>& figures) {
                       reply->ok(*response, "StreamPodSandboxMetrics", [&] {
                         response->mutable_pod_metrics()->Reserve(static_cast<int>(figures.size()));
                         for (const auto& one : figures) fillMetrics(one, response->add_pod_metrics());
                       });
                     });
  });
}

grpc::ServerWriteReactor<v1::StreamPodSandboxMetricsResponse>* RuntimeService::StreamPodSandboxMetrics(
    Context*, const v1::StreamPodSandboxMetricsRequest*) {
  using Stream = ReadStream<PodRecord, stats::PodFigures, v1::StreamPodSandboxMetricsResponse>;
  auto* stream = new Stream(
      readyPods(*core_.snapshot()),
      [this](Records<PodRecord> pods, Stream::Done done) {
        core_.podFigures(std::move(pods), stats::Detail::All, std::move(done));
      },
      [](const stats::PodFigures& figures, v1::StreamPodSandboxMetricsResponse* response) {
        v1::PodSandboxMetrics* item = response->add_pod_sandbox_metrics();
        fillMetrics(figures, item);
        return item->ByteSizeLong();
      });
  return stream->start();
}

}  // namespace userpod::cri
