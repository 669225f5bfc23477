import boto3

client = boto3.client(
    "bedrock-runtime",
    endpoint_url="http://127.0.0.1:8000",
    region_name="us-east-1",
    aws_access_key_id="none",
    aws_secret_access_key="none",
)
answer = client.converse_stream(
    modelId="smollm2-135m-instruct",
    messages=[{"role": "user", "content": [{"text": "Name three colours."}]}],
    inferenceConfig={"maxTokens": 64, "temperature": 0},
)
for event in answer["stream"]:
    print(event.get("contentBlockDelta", {}).get("delta", {}).get("text", ""), end="", flush=True)
print()
