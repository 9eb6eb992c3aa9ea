# docker build -t situs .                              with a GPU: docker run --gpus all
# docker build -t situs:cpu --build-arg INDEX=URL .    URL: of torch's wheels without CUDA, see PyTorch's
#                                                      page on installation; far smaller
FROM python:3.12-slim
ARG INDEX=""
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
# torch's own wheels hold all of CUDA that is needed; the driver is the host's.
RUN pip install ${INDEX:+--index-url "$INDEX"} torch
COPY . /src
RUN pip install '/src[hub,onnx]' && rm -rf /src
# Files that are written belong to whoever says `docker run --user "$(id -u):$(id -g)"`.
ENV HOME=/tmp MPLCONFIGDIR=/tmp
WORKDIR /data
ENTRYPOINT ["situs"]
CMD ["--help"]
