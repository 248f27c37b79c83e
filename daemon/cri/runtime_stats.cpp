// RuntimeService: the calls about figures and events.
#include "daemon/cri/lists.hpp"
#include "daemon/cri/runtime_service.hpp"
#include "daemon/cri/stats.hpp"

namespace userpod::cri {

using stats::Detail;

grpc::ServerUnaryReactor* RuntimeService::ContainerStats(Context* context, const v1::ContainerStatsRequest* request,
                                                         v1::ContainerStatsResponse* response) {
  CallName name{"ContainerStats", "CONTAINER_ID", request->container_id()};
  auto container = findContainer(request->container_id(), true);
  if (!container) return answer(context, name, std::move(container).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.containerFigures({*container}, Detail::Usual,
                           [this, reply, response](const std::vector<stats::ContainerFigures>& figures) {
                             reply->ok([&] {
                               for (const auto& one : figures)
                                 fillStats(one, core_.info().containerRoot, response->mutable_stats());
                             });
                           });
  });
}

grpc::ServerUnaryReactor* RuntimeService::ListContainerStats(Context*, const v1::ListContainerStatsRequest* request,
                                                             v1::ListContainerStatsResponse* response) {
  auto containers = select(core_.snapshot()->containers,
                           [&](const ContainerRecord& container) { return matches(request->filter(), container); });
  return calls_->run({"ListContainerStats"}, [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.containerFigures(std::move(containers), Detail::Usual,
                           [this, reply, response](const std::vector<stats::ContainerFigures>& figures) {
                             reply->ok(*response, "StreamContainerStats", [&] {
                               response->mutable_stats()->Reserve(static_cast<int>(figures.size()));
                               for (const auto& one : figures)
                                 fillStats(one, core_.info().containerRoot, response->add_stats());
                             });
                           });
  });
}

grpc::ServerUnaryReactor* RuntimeService::PodSandboxStats(Context* context, const v1::PodSandboxStatsRequest* request,
                                                          v1::PodSandboxStatsResponse* response) {
  CallName name{"PodSandboxStats", "POD_ID", request->pod_sandbox_id()};
  auto pod = findPod(request->pod_sandbox_id(), true);
  if (!pod) return answer(context, name, std::move(pod).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.podFigures({*pod}, Detail::Usual, [this, reply, response](const std::vector<stats::PodFigures>& figures) {
      reply->ok(*response, "StreamContainerStats", [&] {
        for (const auto& one : figures) fillStats(one, core_.info().containerRoot, response->mutable_stats());
      });
    });
  });
}

grpc::ServerUnaryReactor* RuntimeService::ListPodSandboxStats(Context*, const v1::ListPodSandboxStatsRequest* request,
                                                              v1::ListPodSandboxStatsResponse* response) {
  auto pods = select(core_.snapshot()->pods, [&](const PodRecord& pod) { return matches(request->filter(), pod); });
  return calls_->run({"ListPodSandboxStats"}, [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.podFigures(std::move(pods), Detail::Usual,
                     [this, reply, response](const std::vector<stats::PodFigures>& figures) {
                       reply->ok(*response, "StreamPodSandboxStats", [&] {
                         response->mutable_stats()->Reserve(static_cast<int>(figures.size()));
                         for (const auto& one : figures)
                           fillStats(one, core_.info().containerRoot, response->add_stats());
                       });
                     });
  });
}

grpc::ServerWriteReactor<v1::StreamContainerStatsResponse>* RuntimeService::StreamContainerStats(
    Context*, const v1::StreamContainerStatsRequest* request) {
  using Stream = ReadStream<ContainerRecord, stats::ContainerFigures, v1::StreamContainerStatsResponse>;
  auto* stream = new Stream(
      select(core_.snapshot()->containers,
             [&](const ContainerRecord& container) { return matches(request->filter(), container); }),
      [this](Records<ContainerRecord> containers, Stream::Done done) {
        core_.containerFigures(std::move(containers), Detail::Usual, std::move(done));
      },
      [this](const stats::ContainerFigures& figures, v1::StreamContainerStatsResponse* response) {
        v1::ContainerStats* item = response->add_container_stats();
        fillStats(figures, core_.info().containerRoot, item);
        return item->ByteSizeLong();
      });
  return stream->start();
}

grpc::ServerWriteReactor<v1::StreamPodSandboxStatsResponse>* RuntimeService::StreamPodSandboxStats(
    Context*, const v1::StreamPodSandboxStatsRequest* request) {
  using Stream = ReadStream<PodRecord, stats::PodFigures, v1::StreamPodSandboxStatsResponse>;
  auto* stream = new Stream(
      select(core_.snapshot()->pods, [&](const PodRecord& pod) { return matches(request->filter(), pod); }),
      [this](Records<PodRecord> pods, Stream::Done done) {
        core_.podFigures(std::move(pods), Detail::Usual, std::move(done));
      },
      [this](const stats::PodFigures& figures, v1::StreamPodSandboxStatsResponse* response) {
        v1::PodSandboxStats* item = response->add_pod_sandbox_stats();
        fillStats(figures, core_.info().containerRoot, item);
        return item->ByteSizeLong();
      });
  return stream->start();
}

EventHub::Reactor* RuntimeService::GetContainerEvents(Context*, const v1::GetEventsRequest*) {
  return events_.follow();
}

}  // namespace userpod::cri
